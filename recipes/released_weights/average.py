"""The mean of weights that were trained one from the other.

It holds only for weights with a common past: the mean of two runs from scratch knows nothing.

Source: Wortsman et al., Model soups, ICML 2022.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from amd_seg.model.amd import AMD
from amd_seg.weights import load_weights, save_weights


def average_weights(
    sources: Sequence[Path],
    folder: Path,
    *,
    motion: Path | None = None,
    input_size: int | None = None,
) -> None:
    """Write the mean of weights of one model, BatchNorm's statistics too.

    Args:
        sources: one or more; the settings are the first's.
        folder: where the mean goes.
        motion: weights whose motion pathway is taken as it is; of the sources only the appearance
            pathways are averaged then.
        input_size: short edge, in pixels, at which the weights are used from now on; None keeps it.
    """
    found = [load_weights(source) for source in sources]
    states = [each.model.state_dict() for each in found]
    state = dict(states[0])  # Whole numbers, BatchNorm's counts, stay the first's.
    for name, first in states[0].items():
        if first.is_floating_point():
            state[name] = torch.stack([each[name] for each in states]).mean(dim=0)
    config = found[0].config
    if motion is not None:
        other = load_weights(motion)
        size = other.config.model.motion_size
        config = replace(config, model=replace(config.model, motion_size=size))
        for name, value in other.model.state_dict().items():
            if name.startswith("motion."):
                state[name] = value
    model = AMD(config.model)
    model.load_state_dict(state)
    about = {**config.training, "mean_of": [each.config.sha256 for each in found]}
    size = config.input_size if input_size is None else input_size
    save_weights(folder, model.eval(), replace(config, input_size=size, training=about))
