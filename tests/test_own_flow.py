"""The motion pathway's flow in the place of a classical one."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.clips import find_clips
from amd_seg.training.mover_files import main
from amd_seg.training.movers import read_mover_targets
from amd_seg.training.own_flow import OwnFlow
from amd_seg.weights import save_weights
from tests.clips import moving_patch, texture, write_clip

STEP = (0.5, -0.25)
"""Flow, x and y, that each level of the made weights adds, in pixels of its grid."""


@pytest.fixture(scope="module")
def constant(tiny_config: AMDConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose every level says `STEP`, whatever it sees."""
    model = AMD(tiny_config)
    last = model.motion.region_flow[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(STEP))
    return save_weights(
        tmp_path_factory.mktemp("constant"), model, WeightsConfig(model=tiny_config)
    )


@pytest.mark.parametrize("motion_size", [None, (128, 192)])
@pytest.mark.parametrize("size", [(52, 92), (64, 64), (200, 32)])
def test_the_flow_is_in_pixels_of_the_frames(
    size: tuple[int, int],
    motion_size: tuple[int, int] | None,
    constant: Path,
    tiny_config: AMDConfig,
) -> None:
    frames = [texture(*size, seed) for seed in (0, 1)]
    flow = OwnFlow(constant, motion_size)(*frames)
    assert flow.shape == (*size, 2)
    assert flow.dtype == np.float32
    # Each level doubles the flow of the one before and adds its own; the finest is at a quarter.
    levels = len(tiny_config.pyramid_channels) - 1
    whole = 4 * (2**levels - 1) * np.array(STEP)
    rows, columns = motion_size or tiny_config.motion_size
    expected = whole * [(size[1] - 1) / (columns - 1), (size[0] - 1) / (rows - 1)]
    np.testing.assert_allclose(flow, np.broadcast_to(expected, flow.shape), rtol=1e-5)


def test_it_reaches_another_process_as_the_place_of_its_weights(constant: Path) -> None:
    flow, frames = OwnFlow(constant, (64, 128)), [texture(48, 64, seed) for seed in (0, 1)]
    sent = pickle.dumps(flow)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)(*frames), flow(*frames))


def test_targets_by_the_flow_of_weights_are_found(
    constant: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "patch-001.mp4", moving_patch()[0])
    flags = ["--short-edge", "36", "--work-height", "48", "--min-motion", "0.4"]
    flags += ["--no-grabcut", "--workers", "1"]
    own = ["--flow", str(constant), "--motion-size", "64x128"]
    main([str(videos), str(tmp_path / "own"), *own, *flags])
    main([str(videos), str(tmp_path / "classical"), *flags])
    assert len(find_clips([str(videos)])) == 1
    # A flow that is the same everywhere says that nothing moves; the classical one sees the patch.
    assert not len(read_mover_targets(tmp_path / "own" / "patch-001.npz").indices)
    assert len(read_mover_targets(tmp_path / "classical" / "patch-001.npz").indices)


def test_a_motion_size_is_of_a_flow_and_of_what_a_model_can_have(
    constant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--motion-size", "64x128"], ["--flow", str(constant), "--motion-size", "64"]):
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path), str(tmp_path / "out"), *flags])
        assert "--motion-size" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="motion_size"):
        OwnFlow(constant, (64, 100))
