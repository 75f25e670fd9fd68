"""Fine-tuning on labelled photos, for semantic segmentation (section 4.4 and table 2)."""

import dataclasses
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.classes import VOID
from amd_seg.errors import ConfigError
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticConfig, SemanticWeightsConfig, WeightsConfig
from amd_seg.training.config import FinetuneConfig
from amd_seg.training.distributed import NumberedBatches, batch_mean, joined_processes
from amd_seg.training.labelled_photos import LabelledPhotos, check_labelled, draw_crops
from amd_seg.training.loop import OnStep
from amd_seg.training.run import Run, differences
from amd_seg.training.run_folder import RunFolder
from amd_seg.weights import load_any_weights, save_weights
from amd_seg.weights_import import load_backbone

SCRATCH = "none"  # in the place of weights: start from random values, the row "scratch" of table 2
RESNET_SUFFIXES = frozenset({".pth", ".pt", ".tar", ".bin"})  # a bare .safetensors is one too
DILATIONS = (1, 1, 2, 4)  # of a dilated network: the reach of a backbone that learned at strides


def finetune(
    labelled: LabelledPhotos,
    out: str | os.PathLike[str],
    *,
    model: SemanticConfig,
    config: FinetuneConfig,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Train a backbone and a new head to tell classes apart; see `train`.

    `model_for` makes the model that fits given weights: `SCRATCH`, whatever `load_weights` takes,
    or the file of a ResNet, see `load_backbone`. A run that is resumed does not read them.
    """
    folder, classes = RunFolder(Path(out)), labelled.classes
    name = None if weights is None else os.fspath(weights)
    if model.classes != len(classes):
        raise ConfigError(
            f"The model tells {model.classes} classes apart, {labelled.title} has {len(classes)}. "
            "Give the photos and classes that the run began with."
        )

    with joined_processes(device) as processes:
        photos = [photo.name for photo in labelled.photos]
        run = Run(folder, config, processes, {"photos": photos}, resume)
        network = SemanticNetwork(model)
        if not resume and name != SCRATCH:
            _begin(network, name)
        network.to(processes.device)
        check_labelled(labelled)
        settings = {
            "data": labelled.title,
            "photos": len(photos),
            "start": name or "bundled weights",
            "model": dataclasses.asdict(model),
        }
        draw = partial(draw_crops, labelled, config)
        batches = NumberedBatches(draw, config, processes, config.workers)
        objective = SegmentationObjective(network)
        trained, about = run.learn(objective, batches, settings, on_step=on_step)
        if processes.is_first:
            card = SemanticWeightsConfig(
                model=model,
                class_names=classes.names,
                class_colours=classes.colours,
                input_size=config.short_edge,
                name=folder.path.name,
                training=about,
            )
            save_weights(folder.weights, trained, card)
    return folder.weights


def _begin(network: SemanticNetwork, weights: str | None) -> None:
    """Load a backbone, and a top-down decoder; of two classes the second begins as the object."""
    if _is_resnet_file(weights):
        load_backbone(network, weights)
        return
    start = load_any_weights(weights)
    is_dilated = network.config.layout == "dilated"
    names = ("backbone", "stage_widths", *(() if is_dilated else ("layout", "decoder_channels")))
    if differing := differences(network.config, start.config.model, names):
        raise ConfigError(
            f"The network of the weights {start.source} is another: {differing}. "
            "Leave these settings out, or give other --weights."
        )
    ours, theirs = network.appearance, start.model.appearance
    # Stages that keep the grid have no shortcut where their width stays.
    state = theirs.backbone.state_dict()
    ours.backbone.load_state_dict({name: state[name] for name in ours.backbone.state_dict()})
    if is_dilated:
        return  # Its head is new, as in the paper.
    ours.head.load_state_dict(theirs.head.state_dict())
    if network.config.classes == 2 and isinstance(start.config, WeightsConfig):
        regions, channel = theirs.classifier.state_dict(), start.config.object_channel
        for name, values in ours.classifier.state_dict().items():
            ground = torch.cat((regions[name][:channel], regions[name][channel + 1 :]))
            # The ground has the odds of all other regions together.
            shift = math.log(len(ground)) if name == "bias" else 0.0
            values.copy_(torch.stack((ground.mean(dim=0) + shift, regions[name][channel])))


def model_for(
    weights: str | os.PathLike[str] | None, classes: int, **settings: Any
) -> SemanticConfig:
    """Return an architecture with the backbone of the weights, if they tell it, and settings.

    A top-down decoder that knows regions learns hardly any classes: more than two get the dilated
    layout (notes/experiments.md), unless the settings name another.
    """
    known: dict[str, Any] = {}
    if weights != SCRATCH and not _is_resnet_file(weights):
        config = load_any_weights(weights).config
        names = {field.name for field in dataclasses.fields(SemanticConfig)} - {"classes"}
        known = {name: getattr(config.model, name) for name in names}
        knows_regions = isinstance(config, WeightsConfig) and config.model.layout == "top-down"
        if knows_regions and settings.get("layout", "dilated" if classes > 2 else "") == "dilated":
            known |= {"layout": "dilated", "dilations": DILATIONS}
    return SemanticConfig(**{**known, **settings, "classes": classes})


class SegmentationObjective(nn.Module):
    """Cross-entropy of the classes at the size of the labels; void does not count."""

    def __init__(self, model: SemanticNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, progress: float = 0.0) -> dict[str, Tensor]:
        """Score a `LabelBatch`."""
        labels = batch.labels.long()
        logits = F.interpolate(self.model.logits(batch.frames), labels.shape[-2:], mode="bilinear")
        errors = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        is_judged = (labels != VOID).float()
        # Of all processes together, so that N of them equal one with the whole batch.
        share = batch_mean(is_judged).clamp_min(1e-6)
        is_right = (logits.argmax(dim=1) == labels).float()
        return {"loss": errors.mean() / share, "accuracy": is_right.mean() / share}


def _is_resnet_file(weights: str | os.PathLike[str] | None) -> TypeGuard[str | os.PathLike[str]]:
    path = Path(weights or "")
    is_bare = path.suffix == ".safetensors" and not (path.parent / "config.json").exists()
    return path.suffix in RESNET_SUFFIXES or is_bare
