"""The mean of weights that were trained one from the other.

It holds only for weights with a common past: the mean of two runs from scratch knows nothing.

Source: Wortsman et al., Model soups, ICML 2022.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from amd_seg.training.adaptation import mean_state
from amd_seg.weights import load_weights, save_weights


def average_weights(sources: Sequence[Path], folder: Path, *, motion: Path | None = None) -> None:
    """Write the mean of weights of one model, BatchNorm's statistics too.

    Args:
        sources: one or more; the settings are the first's.
        folder: where the mean goes.
        motion: weights whose motion pathway is taken as it is; of the sources only the appearance
            pathways are averaged then.
    """
    found = [load_weights(source) for source in sources]
    kept = found[0] if motion is None else load_weights(motion)
    mean = mean_state([each.model.state_dict() for each in found], [1.0] * len(found))
    if motion is not None:
        mean = {name: value for name, value in mean.items() if not name.startswith("motion.")}
    kept.model.load_state_dict(kept.model.state_dict() | mean)
    config = found[0].config
    about = {**config.training, "mean_of": [each.config.sha256 for each in found]}
    config = dataclasses.replace(config, model=kept.config.model, training=about)
    save_weights(folder, kept.model, config)
