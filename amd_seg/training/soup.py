"""A model soup: the mean of weights that were trained one from the other.

Run it with `python -m amd_seg.training.soup OUT WEIGHTS WEIGHTS...`.

Source: Wortsman et al., Model soups, ICML 2022.
"""

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from amd_seg.errors import WeightsError
from amd_seg.weights import load_weights
from amd_seg.weights_folder import save_weights

logger = logging.getLogger(__name__)


def average_weights(
    sources: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> Path:
    """Write the mean of several weights, BatchNorm's statistics too; settings are the first's.

    It holds only for weights with a common past: those of two runs from scratch have nothing to
    do with each other, and their mean knows nothing.

    Args:
        sources: two or more, as `load_weights` takes them.
        folder: where the mean goes.

    Returns:
        The folder.

    Raises:
        WeightsError: weights cannot be had, or their models or object channels differ.
    """
    first, *others = [load_weights(source) for source in sources]
    for other in others:
        if (other.config.model, other.config.object_channel) != (
            first.config.model,
            first.config.object_channel,
        ):
            raise WeightsError(
                f"{other.source} cannot be averaged with {first.source}: their models or object "
                "channels differ. Give weights that were trained one from the other."
            )
    states = [found.model.state_dict() for found in (first, *others)]
    # BatchNorm counts its batches in whole numbers: those stay the first's.
    mean = {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    first.model.load_state_dict(mean)
    digests = [found.config.sha256 for found in (first, *others)]
    training = {**first.config.training, "mean_of": digests}
    return save_weights(folder, first.model, dataclasses.replace(first.config, training=training))


def main(arguments: list[str] | None = None) -> None:
    """Write the mean of weights; the log on stderr tells where."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.soup")
    parser.add_argument("out", type=Path, help="folder for the mean")
    parser.add_argument("weights", nargs="+", help="names, folders or files")
    options = parser.parse_args(arguments)
    logger.info("%s", average_weights(options.weights, options.out))


if __name__ == "__main__":
    main()
