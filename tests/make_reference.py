"""Write tests/data/reference.npz: two small cases through the slow reference of oracle.py.

    python tests/make_reference.py

Takes about ten minutes: the slope of the loss along one direction per parameter tensor is found
by central differences. The tests rebuild weights and directions from the names of the tensors;
the frames are stored, as their drawing goes through functions that differ between machines in
the last bit.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import oracle
from numpy.typing import NDArray
from oracle import Array, Chain

from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig

REFERENCE = Path(__file__).parent / "data" / "reference.npz"

# Batch of 2, batch statistics and running ones, basic blocks, three levels of which three score.
SHALLOW = AMDConfig(
    backbone="resnet18",
    dropout=0.0,
    stage_widths=(4, 4, 4, 4),
    head_channels=4,
    head_dilation=1,
    pyramid_channels=(4, 4, 4, 4),
    reduced_channels=4,
    estimator_channels=(8, 8, 8, 4, 4),
    max_displacement=2,
    motion_size=(32, 48),
)
# Batch of 1, bottlenecks, the released depth: five levels, the finest four of which score.
DEEP = dataclasses.replace(
    SHALLOW,
    backbone="resnet50",
    regions=3,
    head_dilation=2,
    pyramid_channels=(4, 4, 4, 4, 4, 4),
    max_displacement=3,
    motion_size=(64, 128),
)
CASES = {"shallow": SHALLOW, "deep": DEEP}
LAST_NORMS = {"resnet18": "bn2.weight", "resnet50": "bn3.weight"}
# Factor on N(0, 1 / fan-in) of a convolution, by a part of its name; elsewhere sqrt(2).
GAINS = {"region_flow": 0.7, "motion": 2.0, "classifier": 3.0}
STEP = 1e-6


def make_state(config: AMDConfig) -> dict[str, Array]:
    """Weights of the model, a pure function of the names and shapes of its tensors."""
    shapes = {name: tuple(value.shape) for name, value in AMD(config).state_dict().items()}
    return {name: _weights(name, shape, config.backbone) for name, shape in shapes.items()}


def _weights(name: str, shape: tuple[int, ...], backbone: str) -> Array:
    """Soft but structured masks, flows of some pixels, 0.7 to 0.9 of the pixels visible."""
    normal = _normal(name, shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if name.endswith("running_mean"):
        value = 0.1 * normal
    elif name.endswith("running_var"):
        value = np.exp(0.1 * normal)
    elif name.endswith("region_flow.1.bias"):
        value = np.array([-0.02, 0.02])
    elif name.endswith("bias"):
        value = 0.1 * normal
    elif len(shape) == 1:
        is_last = ".layer" in name and name.endswith(LAST_NORMS[backbone])
        value = (0.25 if is_last else 1.0) * (1.0 + 0.1 * normal)
    else:
        gain = next((gain for part, gain in GAINS.items() if part in name), 2**0.5)
        value = normal * gain / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32).astype(np.float64)


def _normal(name: str, shape: tuple[int, ...]) -> Array:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.standard_normal(shape)


def make_direction(name: str, shape: tuple[int, ...]) -> Array:
    """A direction in the space of one parameter tensor, of length 1."""
    direction = _normal(f"direction of {name}", shape)
    return direction / np.sqrt((direction**2).sum())


def draw_frames(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw pairs: the background moves by (2, 1), a disc by (-3, 2), both are textured.

    Returns:
        (frame, batch, 3, height, width), the first axis holding frames 1 and 2.
    """
    frames = np.empty((2, batch, 3, height, width))
    y, x = np.mgrid[:height, :width].astype(float)
    for time in range(2):
        for item in range(batch):
            shift = 3.0 * item
            for channel in range(3):
                u, v = x - 2 * time + shift, y - time + 2 * channel
                background = 120 + 60 * np.sin(0.55 * u + 0.2 * v) + 50 * np.cos(0.4 * v - channel)
                centre_x, centre_y = 0.55 * width - 3 * time - shift, 0.4 * height + 2 * time
                u, v = x - centre_x, y - centre_y
                disc = 150 + 90 * np.sin(0.9 * u + channel) * np.cos(0.7 * v + item)
                inside = u**2 + v**2 < (0.28 * height) ** 2
                frames[time, item, channel] = np.where(inside, disc, background)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def run(
    config: AMDConfig, state: Mapping[str, Array], frames: NDArray[np.uint8], *, train: bool
) -> Chain:
    """Run the slow reference with the settings of a model."""
    return oracle.run_chain(
        state,
        list(frames.astype(np.float64)),
        backbone=config.backbone,
        head_dilation=config.head_dilation,
        reach=config.max_displacement,
        motion_size=config.motion_size,
        scales=min(4, len(config.pyramid_channels) - 1),
        train=train,
    )


def numbers(chain: Chain) -> dict[str, Array]:
    """Pick what is stored of a chain: small arrays whole, of large ones every fourth pixel."""
    found = {
        "logits": chain.logits,
        "per_scale": np.array(chain.per_scale),
        "visible_bits": np.packbits(np.concatenate(chain.visible).astype(bool)),
    }
    for name, flow in (("12", chain.flow_12), ("21", chain.flow_21)):
        found[f"vectors_{name}"] = np.stack(flow.vectors, axis=1)
        for scale, values in enumerate(flow.flows):
            found[f"flow_{name}_{scale}"] = thin(values)
    for scale, pair in enumerate(chain.synthesized):
        for name, values in zip(("12", "21"), pair, strict=True):
            found[f"synthesized_{name}_{scale}"] = thin(values).astype(np.float32)
    return found | {f"running:{name}": value for name, value in chain.running.items()}


def thin(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Every fourth row and column."""
    return values[..., ::4, ::4]


def slopes(config: AMDConfig, state: dict[str, Array], frames: NDArray[np.uint8]) -> Array:
    """Slope of the train-mode loss along each parameter's direction, in the order of `state`."""
    found = []
    for name in parameter_names(state):
        direction = make_direction(name, state[name].shape)
        losses = [
            run(config, {**state, name: state[name] + step * direction}, frames, train=True).loss
            for step in (STEP, -STEP)
        ]
        found.append((losses[0] - losses[1]) / (2 * STEP))
    return np.array(found)


def parameter_names(state: Mapping[str, Array]) -> list[str]:
    """Names of the tensors that are learned."""
    return [name for name in state if "running" not in name and "num_batches" not in name]


def main() -> None:
    stored: dict[str, NDArray[np.generic]] = {}
    for case, config in CASES.items():
        state = make_state(config)
        shape = (2, 36, 52) if case == "shallow" else (1, 40, 56)
        frames = draw_frames(*shape)
        stored[f"{case}/frames"] = frames
        for train in (False, True) if case == "shallow" else (False,):
            found = numbers(run(config, state, frames, train=train))
            mode = "train" if train else "eval"
            stored |= {f"{case}/{mode}/{name}": value for name, value in found.items()}
    shallow = CASES["shallow"]
    stored["shallow/slopes"] = slopes(shallow, make_state(shallow), stored["shallow/frames"])
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE, **stored)


if __name__ == "__main__":
    main()
