"""A model soup: the mean of weights that were trained one from the other.

Run it with `python -m amd_seg.training.soup OUT WEIGHTS WEIGHTS... [--shares S S...] [--motion W]`.

Source: Wortsman et al., Model soups, ICML 2022.
"""

import argparse
import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from amd_seg.errors import InputError, WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AppearanceConfig, WeightsConfig
from amd_seg.weights import Pretrained, load_weights
from amd_seg.weights_files import save_weights

logger = logging.getLogger(__name__)


def average_weights(
    sources: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    shares: Sequence[float] | None = None,
    motion: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the mean of several weights, BatchNorm's statistics too; settings are the first's.

    It holds only for weights with a common past: those of two runs from scratch have nothing to
    do with each other, and their mean knows nothing.

    Args:
        sources: two or more, as `load_weights` takes them.
        folder: where the mean goes.
        shares: how much each source counts, in any unit; equal ones by default.
        motion: weights whose motion pathway is taken as it is, where those of the sources have no
            common past; only the appearance pathways are averaged then.

    Returns:
        The folder.

    Raises:
        InputError: not one share above 0 for each source.
        WeightsError: weights cannot be had, or their models or object channels differ.
    """
    shares = [1.0] * len(sources) if shares is None else list(shares)
    if len(shares) != len(sources) or not all(0 < share < math.inf for share in shares):
        raise InputError(
            f"shares={shares} do not fit {len(sources)} weights: one above 0 for each."
        )
    found = [load_weights(source) for source in sources]
    kept = found[0] if motion is None else load_weights(motion)
    _require_alike([*found, kept], appearance_only=motion is not None)
    mean = mean_state([each.model.state_dict() for each in found], shares)
    if motion is not None:
        mean = {name: value for name, value in mean.items() if not name.startswith("motion.")}
    kept.model.load_state_dict(kept.model.state_dict() | mean)
    config, training = found[0].config, dict(found[0].config.training)
    training |= {"mean_of": [each.config.sha256 for each in found], "shares": shares}
    if motion is not None:
        training["motion_of"] = kept.config.sha256
    config = dataclasses.replace(config, model=kept.config.model, training=training)
    return save_weights(folder, kept.model, config)


def mean_state(
    states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
) -> dict[str, Tensor]:
    """Average state dicts of one model.

    Whole numbers, by which BatchNorm counts its batches, are the first's.

    Args:
        states: with the same names and shapes.
        shares: how much each counts, in any unit.
    """

    def mean(name: str, first: Tensor) -> Tensor:
        if not first.is_floating_point():
            return first
        parts = [state[name] * share for state, share in zip(states, shares, strict=True)]
        return torch.stack(parts).sum(dim=0) / sum(shares)

    return {name: mean(name, first) for name, first in states[0].items()}


def _require_alike(
    found: Sequence[Pretrained[AMD, WeightsConfig]], *, appearance_only: bool
) -> None:
    def settings(config: WeightsConfig) -> tuple[object, ...]:
        if not appearance_only:
            return config.model, config.object_channel
        names = (field.name for field in dataclasses.fields(AppearanceConfig))
        parts = [getattr(config.model, name) for name in names]
        return *parts, config.model.regions, config.object_channel

    first, *others = found
    for other in others:
        if settings(other.config) != settings(first.config):
            raise WeightsError(
                f"{other.source} cannot be averaged with {first.source}: their models or object "
                "channels differ. Give weights that were trained one from the other."
            )


def main(arguments: list[str] | None = None) -> None:
    """Write the mean of weights; the log on stderr tells where."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.soup")
    parser.add_argument("out", type=Path, help="folder for the mean")
    parser.add_argument("weights", nargs="+", help="names, folders or files")
    parser.add_argument("--shares", type=float, nargs="+", help="how much each counts")
    parser.add_argument(
        "--motion", metavar="W", help="weights whose motion pathway is taken as it is"
    )
    options = parser.parse_args(arguments)
    shares, motion = options.shares, options.motion
    logger.info("%s", average_weights(options.weights, options.out, shares=shares, motion=motion))


if __name__ == "__main__":
    main()
