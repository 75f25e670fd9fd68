"""The parameter names of the released checkpoint, and ours for the same tensors."""

import logging
from collections.abc import Iterator, Mapping

from torch import Tensor

from amd_seg.errors import WeightsError

logger = logging.getLogger(__name__)

BLOCKS = (3, 4, 6, 3)
"""Bottlenecks of the four stages of ResNet-50, the only backbone that was released."""

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
AFFINE = ("weight", "bias")

# Parts of the released decode head that its objective never reads may differ between versions.
IGNORED_PREFIX = "decode_head."


def rename_official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of the released checkpoint the names that `AMD` uses.

    Args:
        state: the checkpoint's `state_dict`, with or without the prefix `module.`.

    Returns:
        The same tensors, in the order of `state`, under our names. Unknown keys under
        `decode_head.` are logged and left out.

    Raises:
        WeightsError: keys are missing or unknown, or a value is no tensor; all are named.

    Source: keys of the instantiated released model (mmcv's format).
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    names = dict(_official_to_ours())
    unknown = [key for key in state if key not in names]
    ignored = [key for key in unknown if key.startswith(IGNORED_PREFIX)]
    faults = {
        "missing": [key for key in names if key not in state],
        "unknown": [key for key in unknown if key not in ignored],
        "not tensors": [k for k in names if k in state and not isinstance(state[k], Tensor)],
    }
    if any(faults.values()):
        listed = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in faults.items() if keys)
        raise WeightsError(
            f"The keys are not those of the released AMD checkpoint ({listed}). "
            "Give the authors' amd_pretrained.pth."
        )
    if ignored:
        logger.warning("Ignored keys that the model does not use: %s", ", ".join(ignored))
    return {names[key]: value for key, value in state.items() if key in names}


def _official_to_ours() -> Iterator[tuple[str, str]]:
    """Yield every pair of the released name and ours."""
    for official, ours, leaves in _modules():
        for leaf in leaves:
            yield f"{official}.{leaf}", f"{ours}.{leaf}"


def _modules() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the released name, ours, and the tensors of every module that has some."""
    for module, leaves in _backbone_modules():
        yield f"backbone2.{module}", f"appearance.backbone.{module}", leaves
    for index in range(2):
        official, ours = f"decode_head2.convs.{index}", f"appearance.head.{index}"
        yield f"{official}.conv", f"{ours}.conv", ("weight",)
        yield f"{official}.bn", f"{ours}.bn", BATCH_NORM
    yield "decode_head2.conv_seg", "appearance.classifier", AFFINE

    flow = "decode_head.flownet"
    for stage in range(6):
        for index in range(2):
            official = f"{flow}.feature_pyramid_extractor.convs.{stage}.{index}.0"
            yield official, f"motion.pyramid.{stage}.{index}", AFFINE
    for level in range(5):
        yield f"{flow}.conv_1x1.{level}.0", f"motion.reductions.{level}", AFFINE
    for index in range(5):
        official = f"{flow}.flow_estimators.conv{index + 1}.0"
        yield official, f"motion.estimator.{index}", AFFINE
    for index in range(2):
        official = f"{flow}.flow_estimators.predict_flow{index + 1}.0"
        yield official, f"motion.region_flow.{index}", AFFINE


def _backbone_modules() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules of ResNet-50, whose names are torchvision's on both sides."""
    yield "conv1", ("weight",)
    yield "bn1", BATCH_NORM
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            for index in (1, 2, 3):
                yield f"layer{stage}.{block}.conv{index}", ("weight",)
                yield f"layer{stage}.{block}.bn{index}", BATCH_NORM
        yield f"layer{stage}.0.downsample.0", ("weight",)
        yield f"layer{stage}.0.downsample.1", BATCH_NORM
