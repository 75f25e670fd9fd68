"""Classes in photos: whole, by windows, mirrored; as arrays, as files, on the command line."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from amd_seg import Segmenter, SemanticSegmenter
from amd_seg.classes import VOC2012, Classes
from amd_seg.errors import ConfigError, InputError, MediaError, WeightsError
from amd_seg.media.labels import read_labels
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticWeightsConfig, stored_config
from amd_seg.semantic import class_probabilities, strongest_classes
from amd_seg.weights import load_semantic_weights, save_weights
from tests.labelled import HEIGHT, WIDTH
from tests.processes import invoke, refused, runner
from tests.test_cli_evaluate import evaluate, scores
from tests.test_masked_images import write_pair
from tests.tiny import SEMANTIC, tiny_weights

CLASSES = Classes.of(("background", "cup", "sign", "tree"))


def network(classes: int = 4) -> SemanticNetwork:
    torch.manual_seed(0)
    model = SemanticNetwork(dataclasses.replace(SEMANTIC, classes=classes)).eval()
    # Fresh weights say nearly the same everywhere: let classes win and lose.
    torch.nn.init.normal_(model.appearance.classifier.weight, std=3.0)
    return model


def saved(folder: Path, classes: Classes = CLASSES) -> Path:
    model = network(len(classes))
    named = {"class_names": classes.names, "class_colours": classes.colours, "name": "tiny"}
    config = SemanticWeightsConfig(model=model.config, input_size=32, **named)
    return save_weights(folder, model, config)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "run" / "weights")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).resize((90, 60)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def logits_of(model: SemanticNetwork, frame: torch.Tensor) -> torch.Tensor:
    logits = model.logits(frame[None])
    return interpolate(logits, frame.shape[-2:], mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(40, 40), (37, 90), (33, 32), (20, 70), (100, 64)])
@torch.inference_mode()
def test_a_frame_is_seen_whole_or_by_windows_as_published(size: tuple[int, int]) -> None:
    model, frame = network(), torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    seen_whole = class_probabilities(model, frame)
    torch.testing.assert_close(seen_whole, logits_of(model, frame).softmax(dim=0))
    window, stride = 32, 21
    height, width = size
    total, count = torch.zeros(4, *size), torch.zeros(size)
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom = min(row * stride + window, height)
            right = min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            part = logits_of(model, frame[:, top:bottom, left:right])
            total += pad(part, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    expected = (total / count).softmax(dim=0)
    for batch_size in (1, 5):
        found = class_probabilities(model, frame, window=window, batch_size=batch_size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 32])
@torch.inference_mode()
def test_with_flip_it_is_the_mean_with_the_mirrored_frame(window: int | None) -> None:
    model, frame = network(), torch.randint(0, 256, (3, 40, 59), dtype=torch.uint8)
    once = class_probabilities(model, frame, window=window)
    other = class_probabilities(model, frame.flip(-1), window=window).flip(-1)
    assert not torch.allclose(once, other, atol=1e-3)
    for given, expected in ((frame, (once + other) / 2), (frame.flip(-1), (once + other) / 2)):
        found = class_probabilities(model, given, window=window, flip=True)
        torch.testing.assert_close(found if given is frame else found.flip(-1), expected)


@pytest.mark.parametrize("size", [(5, 7), (40, 56), (200, 33), (129, 300)])
def test_the_strongest_class_is_that_of_the_resized_scores(size: tuple[int, int]) -> None:
    scores = torch.rand(6, 13, 17, generator=torch.Generator().manual_seed(1))
    resized = interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    labels = strongest_classes(scores, size)
    assert (labels.dtype, labels.shape) == (np.uint8, size)
    best = resized.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    torch.testing.assert_close(best, resized.amax(dim=0), atol=1e-6, rtol=0)


def test_photos_come_back_labelled_at_their_own_size(weights: Path, photo: Path) -> None:
    segmenter = SemanticSegmenter.from_pretrained(weights.parent, device="cpu")
    result = segmenter(photo)
    assert result.labels.shape == (60, 90)
    assert result.classes == CLASSES
    assert sum(result.shares.values()) == pytest.approx(1)
    assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True)
    assert len(result.shares) > 1
    pixels = np.asarray(Image.open(photo))
    listed = [*segmenter([photo, pixels], size=48, slide=True, flip=True)]
    np.testing.assert_array_equal(listed[0].labels, listed[1].labels)
    assert (listed[0].labels != result.labels).any()
    _, bad, _ = segmenter.stream([photo, photo.with_name("none.jpg"), photo])
    assert isinstance(bad, MediaError)
    with pytest.raises(InputError, match="size=4"):
        segmenter(photo, size=4)
    segmenter.model.appearance.classifier.bias.data[0] = torch.nan
    with pytest.raises(WeightsError, match="'tiny' are damaged"):
        segmenter(photo)


def test_labels_and_overlay_are_written(weights: Path, photo: Path, tmp_path: Path) -> None:
    Image.open(photo).save(photo, dpi=(300, 150))
    result = SemanticSegmenter.from_pretrained(weights, device="cpu")(photo)
    assert result.save(tmp_path / "labels.png") == tmp_path / "labels.png"
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png", CLASSES), result.labels)
    with Image.open(io.BytesIO(result.encode())) as image:
        assert (image.mode, image.getpalette()[3:6]) == ("P", [128, 0, 0])
    for output, dpi in (("overlay", pytest.approx((300, 150), abs=0.1)), ("labels", None)):
        saved = result.save(tmp_path / "out.png", output).read_bytes()
        for content in (saved, result.encode(output)):
            image = Image.open(io.BytesIO(content))
            assert (image.size, image.info.get("dpi")) == ((90, 60), dpi)
    with pytest.raises(MediaError, match=r"indexed \.png files only"):
        result.save(tmp_path / "labels.jpg")
    with pytest.raises(InputError, match="Use one of labels, overlay"):
        result.render("mask")


def test_each_kind_of_weights_has_its_segmenter(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"fine-tuned.*SemanticSegmenter"):
        Segmenter.from_pretrained(weights)
    objects = tiny_weights(tmp_path / "o")
    with pytest.raises(WeightsError, match=r"know no classes.*amd-seg finetune"):
        SemanticSegmenter.from_pretrained(objects)
    config = load_semantic_weights(weights).config
    assert config == stored_config(json.loads(json.dumps(config.to_dict())))
    assert config.classes == CLASSES
    shown = invoke("weights", "info", weights).stdout
    assert "kind: semantic" in shown
    assert "class_names: background, cup, sign, tree\n" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "poetry"}, "of the kind 'poetry'"),
        ({"class_names": ["a", "b"]}, "class_names=.*4 texts, one for each class"),
        ({"class_names": ["a", "b", "c", 4]}, "4 texts, one for each class"),
        ({"class_colours": ["#000000"] * 4}, "a colour of its own"),
        ({"threshold": 0.5}, "unknown keys: threshold"),
        ({"model": {"classes": 1}}, "classes=1"),
    ],
)
def test_a_class_config_is_strict(weights: Path, change: dict[str, object], message: str) -> None:
    values = json.loads((weights / "config.json").read_text()) | change
    with pytest.raises(ConfigError, match=message):
        stored_config(values)


def test_image_writes_labels(weights: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    image = runner("image", weights)
    for args, message in (
        ("", "tell classes: they give no mask. Use --output labels or overlay"),
        ("--output labels -o x.jpg", "x.jpg cannot hold labels. Use .png"),
        ("--output labels --threshold 0.3", "--threshold is for masks"),
        ("--output labels --weights amd-resnet18", "know no classes: they give no labels"),
    ):
        assert message in refused(image("photo.png", *args.split()))
    result = image("photo.png", "--output", "labels")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "photo.labels.png\n", "")
    with Image.open("photo.labels.png") as picture:
        assert (picture.mode, picture.size) == ("P", (90, 60))
        assert "1 cup" in picture.text["classes"]
    told = json.loads(image("photo.png", "--output", "overlay", "--json").stdout)
    assert (told["output"], told["width"], told["height"]) == ("photo.overlay.png", 90, 60)
    assert set(told["classes"]) <= set(CLASSES.names)
    # What it wrote is no photo.
    assert image(".", "--output", "overlay").exit_code == 2


def test_perfect_labels_score_full_marks(voc: Path, tmp_path: Path) -> None:
    truths = voc / "SegmentationClass"
    result = evaluate("voc2012", voc, "--predictions", truths)
    assert result.stdout.startswith("PASCAL VOC 2012 val subset (3 of 1,449 images)")
    assert "mIoU                  100.0" in result.stdout
    rows = dict(line.split()[:2] for line in result.stdout.splitlines() if len(line.split()) == 3)
    assert (rows["aeroplane"], rows["tvmonitor"]) == ("100.0", "-")
    assert "AMD, YouTube-VOS, light      62.0" in result.stdout
    assert set(scores("voc2012", voc, "--predictions", truths).values()) == {1.0}
    (tmp_path / "coloured").mkdir()
    for path in truths.iterdir():
        with Image.open(path) as picture:
            picture.convert("RGB").save(tmp_path / "coloured" / path.name)
    names = tmp_path / "names.txt"
    names.write_text("ground\nred\ngreen\nblue\n")
    own = ["--images", voc / "JPEGImages", "--classes", names, "--predictions", truths, "--masks"]
    assert scores(*own, truths)["miou"] == 1
    assert scores(*own, tmp_path / "coloured", "--coloured-masks")["miou"] == 1
    assert "give --coloured-masks" in refused(evaluate(*own, tmp_path / "coloured"))


def test_the_score_is_that_of_what_a_user_would_write(voc: Path, tmp_path: Path) -> None:
    weights = saved(tmp_path / "voc-weights", VOC2012)
    network = ["--weights", weights, "--device", "cpu"]
    found = scores("voc2012", voc, *network, "--sheet", tmp_path / "s.png")
    assert 0 < found["miou"] < 1
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 240
    written = ["image", voc / "JPEGImages", "-o", tmp_path / "out", "--output", "labels"]
    assert invoke(*written, *network).exit_code == 0
    assert scores("voc2012", voc, "--predictions", tmp_path / "out") == found
    slid = evaluate("voc2012", voc, *network, "--workers", "2", "--slide", "--flip", "--json", "-")
    assert json.loads(slid.stdout)["scores"] != found
    title = evaluate("voc2012", voc, *network, "--slide", "--flip").stdout.splitlines()[0]
    assert title.endswith("voc-weights, slide, flip")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("voc2012 VOC", "Classes need --weights of amd-seg finetune, or --predictions"),
        ("voc2012 VOC --weights FOUR", "know 4 classes (background, cup, sign, tree)"),
        ("voc2012 VOC --weights amd-resnet18", "know no classes"),
        ("voc2012 VOC --classes NAMES", "voc2012 has its own classes"),
        ("voc2012 VOC --predictions WRONG", "2007_000006.png: The label 255 is predicted"),
        ("voc2012 VOC --weights FOUR --refine guided", "--refine is for masks of one object"),
        ("voc2012 VOC --weights FOUR --threshold 0.5", "--threshold is for vid"),
        ("voc2012 VOC --predictions WRONG --flip", "--flip is for a network. Drop"),
        ("ecssd PAIRS --coloured-masks", "for masks with classes"),
    ],
)
def test_what_cannot_be_scored_gets_one_clear_line(
    voc: Path, tmp_path: Path, weights: Path, args: str, message: str
) -> None:
    (tmp_path / "WRONG").mkdir()
    for number in range(6, 9):
        wrong = Image.new("L", (WIDTH, HEIGHT), 255)
        wrong.save(tmp_path / "WRONG" / f"2007_{number:06}.png")
    write_pair(tmp_path / "PAIRS", "a", Image.new("L", (16, 16), 255))
    places = {name: tmp_path / name for name in ("WRONG", "PAIRS", "NAMES")}
    places |= {"VOC": voc, "FOUR": weights}
    args = args if "--predictions" in args else f"{args} --device cpu"
    result = evaluate(*(places.get(arg, arg) for arg in args.split()))
    assert result.exit_code in (2, 3)
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
