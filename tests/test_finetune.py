"""Fine-tuning: crops, loss, SGD and schedule are the published ones; a run resumes to the bit."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from amd_seg.classes import VOC2012, VOID
from amd_seg.errors import ConfigError, InputError, WeightsError
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.training.config import FINETUNE_PRESETS, FinetuneConfig
from amd_seg.training.finetune import SegmentationObjective, finetune, model_for
from amd_seg.training.labelled_photos import LabelBatch, LabelledPhotos, open_coco, open_voc2012
from amd_seg.training.loop import StopTraining
from amd_seg.weights import load_semantic_weights, load_weights
from tests.processes import Run, good, invoke, refused
from tests.test_cli_evaluate import scores
from tests.test_run import column, stop_at_step_3
from tests.tiny import SEMANTIC, TINY, settings, tiny_weights

SETTINGS = FinetuneConfig(
    steps=6, batch_size=4, short_edge=40, crop=(40, 40), workers=0, learning_rate=0.05,
    log_every=1, sheet_every=0, checkpoint_every=2, keep=10,
)  # fmt: skip
# The same on a command line.
FLAGS = ["--weights", "none", "--crop", "40x40", "--device", "cpu"]
FLAGS += settings("backbone=resnet18 stage_widths=8,8,8,8 head_channels=8 head_dilation=1")
FLAGS += settings("dropout=0 short_edge=40 log_every=1")


def test_the_loss_is_the_mean_cross_entropy_over_what_is_judged() -> None:
    torch.manual_seed(0)
    model = SemanticNetwork(SEMANTIC).eval()
    frames = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    labels = torch.randint(0, 21, (2, 24, 32), dtype=torch.uint8)
    labels[:, 5:20] = VOID
    objective = SegmentationObjective(model)
    parts = objective(LabelBatch(frames, labels, ("a", "b")))
    logits = nn.functional.interpolate(model.logits(frames).detach(), (24, 32), mode="bilinear")
    errors, right = [], []
    for item, row, place in (labels != VOID).nonzero().tolist():
        values, label = logits[item, :, row, place].double(), int(labels[item, row, place])
        errors.append(float(values.exp().sum().log() - values[label]))
        right.append(int(values.argmax()) == label)
    assert parts["loss"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert parts["accuracy"].item() == pytest.approx(np.mean(right), rel=1e-5)
    assert objective(LabelBatch(frames, torch.full_like(labels, VOID), ()))["loss"].item() == 0


def test_a_short_run_learns_the_colours(voc: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, steps=40, scale=(0.8, 1.5), checkpoint_every=100)
    model = dataclasses.replace(SEMANTIC, stage_widths=(8, 8, 16, 16), head_channels=16)
    out = tmp_path / "run"
    finetune(open_voc2012(voc), out, model=model, config=config, weights="none", device="cpu")
    found = scores("voc2012", voc, "--weights", out, "--device", "cpu", "--quiet")
    # Measured 0.74; background everywhere is 0.13.
    assert found["miou"] > 0.5


def test_a_resumed_run_ends_as_if_it_had_never_stopped(voc: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, augment="heavy", ema_decay=0.9)
    model = dataclasses.replace(SEMANTIC, dropout=0.5)
    options = {"model": model, "config": config, "device": "cpu"}
    labelled = open_voc2012(voc)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finetune(labelled, whole, weights="none", **options)
    with pytest.raises(StopTraining):
        finetune(labelled, parts, weights="none", on_step=stop_at_step_3, **options)
    others = dataclasses.replace(labelled, photos=labelled.photos[::-1])
    with pytest.raises(InputError, match="photos in another order"):
        finetune(others, parts, weights="none", resume=True, **options)
    # The weights it began from are not asked for again.
    finetune(labelled, parts, weights="gone", resume=True, **options)
    assert column(parts) == column(whole)
    digests = [load_semantic_weights(run).config.sha256 for run in (whole, parts)]
    assert digests[0] == digests[1]


def start_of(
    labelled: LabelledPhotos, out: Path, weights: Path, **changes: object
) -> dict[str, Tensor]:
    """The convolutions of the backbone before the first step."""
    model = model_for(weights, len(labelled.classes), **changes)
    config = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-12, final_learning_rate=0.0)
    finetune(labelled, out, model=model, config=config, weights=weights, device="cpu")
    return convolutions(load_semantic_weights(out).model.appearance.backbone.state_dict())


def convolutions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    is_one = ("conv", "downsample.0")
    return {n: v.half() for n, v in state.items() if any(part in n for part in is_one)}


def test_a_backbone_starts_from_our_weights_and_from_others(voc: Path, tmp_path: Path) -> None:
    labelled, ours = open_voc2012(voc), tiny_weights(tmp_path / "ours")
    state = load_weights(ours).model.appearance.backbone.state_dict()
    # TimeCycle's: convolutions over time, of one frame.
    theirs = {
        f"module.encoderVideo.{name}": value[:, :, None] if value.ndim == 4 else value
        for name, value in state.items()
    }
    theirs["module.afterconv1.weight"] = torch.zeros(4, 8, 1, 1)
    path = tmp_path / "checkpoint_14.pth.tar"
    torch.save({"state_dict": theirs}, path)
    sizes = {"backbone": "resnet18", "stage_widths": (8, 8, 8, 8), "dilations": (1, 1, 2, 4)}
    # Fine-tuned weights are a start as well.
    starts = {"run": (ours, {}), "next": (tmp_path / "run", {}), "others": (path, sizes)}
    for name, (weights, changes) in starts.items():
        found = start_of(labelled, tmp_path / name, weights, **changes)
        torch.testing.assert_close(found, convolutions(state), rtol=0, atol=0)
    model = load_semantic_weights(tmp_path / "run").config.model
    assert (model.stage_widths, model.classes) == (TINY.stage_widths, 21)
    with pytest.raises(ConfigError, match=r"stage_widths \(8, 8, 8, 16\) instead of"):
        start_of(labelled, tmp_path / "no", ours, stage_widths=(8, 8, 8, 16))
    torch.save({"state_dict": {"backbone2.conv1.weight": torch.zeros(64, 3, 7, 7)}}, path)
    with pytest.raises(WeightsError, match=r"Convert it first, amd-seg weights convert"):
        start_of(labelled, tmp_path / "no", path)


def test_a_decoder_goes_on_and_the_object_stays_the_object(voc: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, layout="top-down", dilations=(1, 1, 1, 1))
    ours = tiny_weights(tmp_path / "ours", model=config)
    amd = load_weights(ours).model
    write_coco(tmp_path / "masks.json", "object")
    labelled = open_coco(tmp_path / "masks.json", voc / "JPEGImages", tmp_path / "labels")
    start_of(labelled, tmp_path / "run", ours)
    found = load_semantic_weights(tmp_path / "run").model.appearance
    heads = (convolutions(part.head.state_dict()) for part in (found, amd.appearance))
    torch.testing.assert_close(*heads, rtol=0, atol=0)
    # The ground begins as all other regions together.
    weight = amd.appearance.classifier.weight.detach().half()
    others = weight[[0, *range(2, config.regions)]].float().mean(dim=0)
    expected = torch.stack((others, weight[1].float()))
    torch.testing.assert_close(found.classifier.weight.detach(), expected, rtol=0, atol=1e-3)


def test_many_classes_take_the_dilated_layout(voc: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, layout="top-down", dilations=(1, 1, 1, 1))
    ours = tiny_weights(tmp_path / "ours", model=config)
    state = convolutions(load_weights(ours).model.appearance.backbone.state_dict())
    labelled = open_voc2012(voc)
    found = start_of(labelled, tmp_path / "run", ours)
    gone = {f"layer{stage}.0.downsample.0.weight" for stage in (3, 4)}
    assert state.keys() - found.keys() == gone
    torch.testing.assert_close(found, {name: state[name] for name in found}, rtol=0, atol=0)
    model = load_semantic_weights(tmp_path / "run").config.model
    assert (model.layout, model.dilations) == ("dilated", (1, 1, 2, 4))
    whole = start_of(labelled, tmp_path / "whole", ours, layout="top-down")
    torch.testing.assert_close(whole, state, rtol=0, atol=0)


def write_coco(path: Path, *categories: str) -> None:
    """A square of the last category in each of two photos."""
    square = {"category_id": len(categories), "segmentation": [[4, 4, 20, 4, 20, 20, 4, 20]]}
    size = {"height": 40, "width": 56}
    coco = {
        "images": [{"id": n, "file_name": f"2007_{n:06}.jpg", **size} for n in (1, 2)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
        "annotations": [{"id": n, "image_id": n, "iscrowd": 0, **square} for n in (1, 2)],
    }
    path.write_text(json.dumps(coco))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    flags = ["--steps", "1", "--batch-size", "2", "--out", tmp_path / "run", *FLAGS]
    return partial(invoke, "finetune", *flags, *settings("sheet_every=1"))


@pytest.mark.parametrize("preset", FINETUNE_PRESETS)
def test_every_preset_takes_a_step(run: Run, voc: Path, tmp_path: Path, preset: str) -> None:
    result = good(run("voc2012", voc, "--preset", preset, "--workers", "0"))
    assert result.stdout == f"{tmp_path / 'run' / 'weights'}\n"
    card = load_semantic_weights(tmp_path / "run").config
    assert card.classes == VOC2012
    assert (card.training["steps"], card.training["data"]) == (1, "voc2012 train")
    with Image.open(tmp_path / "run" / "sheets" / "step-000000001.png") as sheet:
        # Photo, classes, labels, in two rows.
        assert sheet.size == (4 + 3 * 196, 18 + 2 * 210)
    good(run("voc2012", voc, "--resume", "--steps", "2"))
    assert load_semantic_weights(tmp_path / "run").config.training["steps"] == 2


def test_any_folders_and_a_coco_file_will_do(run: Run, voc: Path, tmp_path: Path) -> None:
    names, photos = tmp_path / "names.txt", voc / "JPEGImages"
    names.write_text("ground #101010\nred\ngreen\nblue\n")
    folders = ["--images", photos, "--masks", voc / "SegmentationClass"]
    good(run(*folders, "--classes", names, "--workers", "0"))
    card = load_semantic_weights(tmp_path / "run").config
    assert card.class_names == ("ground", "red", "green", "blue")
    assert (card.class_colours[0], card.input_size) == ("#101010", 40)
    write_coco(tmp_path / "masks.json", "cup", "dog")
    words = ["coco", tmp_path / "masks.json", photos, "--workers", "0"]
    good(run(*words, "--out", tmp_path / "next"))
    names_found = load_semantic_weights(tmp_path / "next").config.class_names
    assert names_found == ("background", "cup", "dog")
    assert len(list((tmp_path / "next-labels").iterdir())) == 2


WRONG_SET = "Give voc2012 and its folder (and --split), coco with its file"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("coco masks.json", WRONG_SET),
        ("voc2012", WRONG_SET),
        ("{VOC} --classes {NAMES}", WRONG_SET),
        ("--images x --masks y", WRONG_SET),
        ("{FOLDERS} --split val", WRONG_SET),
        ("{FOLDERS}", "labels beyond the 3 classes (0 to 2, 255 is void): 3."),
        ("{VOC} --resume", "Cannot resume"),
        ("{RGB} --coloured-masks", "colours that no class has: #123456"),
    ],
)
def test_bad_input_is_told(run: Run, voc: Path, tmp_path: Path, words: str, message: str) -> None:
    names, copy = tmp_path / "names.txt", tmp_path / "copy"
    names.write_text("ground\nred\ngreen\n")
    shutil.copytree(voc, copy)
    Image.new("RGB", (56, 40), "#123456").save(copy / "SegmentationClass/2007_000003.png")
    folders = f"--images {voc}/JPEGImages --masks {voc}/SegmentationClass --classes {names}"
    sets = {"VOC": f"voc2012 {voc}", "RGB": f"voc2012 {copy}", "FOLDERS": folders}
    assert message in refused(run(*words.format(NAMES=names, **sets).split()))
    assert not (tmp_path / "run").exists()
