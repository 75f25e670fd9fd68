"""The teacher of stills on pictures whose object is known, and what training makes of it."""

import heapq
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amd_seg.cli import cli
from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.training.batches import open_batches
from amd_seg.training.clips import find_photos
from amd_seg.training.contrast import _shortest_paths, boundary_contrast
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.movers import read_mover_targets
from amd_seg.training.photo_files import main, write_photo_targets
from amd_seg.training.photos import PhotoConfig, photo_targets
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.superpixels import superpixels
from amd_seg.training.targets import TargetClip, TargetSampler
from tests.clips import moving_square, write_lossless

HEIGHT, WIDTH = 60, 80
FAST = PhotoConfig(patches=(60,))
ALONE = Processes(torch.device("cpu"))


def photo_of_a_ball(seed=0, centre=(24, 50), radius=14):
    """A red ball on grass of two greens, and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    photo = np.where(rows[..., None] > 30, (40, 120, 50), (60, 140, 60))
    photo = np.where(mask[..., None], (190, 40, 40), photo)
    return np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8), mask


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def test_what_stands_out_is_found():
    photo, mask = photo_of_a_ball()
    found = photo_targets(photo, FAST)
    assert found.indices.tolist() == [0]
    assert found.masks.shape == (1, HEIGHT, WIDTH)
    assert found.masks.dtype == np.uint8
    assert found.confidence.dtype == np.float32
    assert 0.7 < found.confidence[0] <= 1
    assert iou(found.masks[0] >= 128, mask) > 0.9  # measured 0.97


def test_the_same_photo_gives_the_same_target():
    photo, _ = photo_of_a_ball()
    first, second = (photo_targets(photo, FAST) for _ in range(2))
    np.testing.assert_array_equal(first.masks, second.masks)


def test_a_thing_cut_by_the_border_is_background():
    photo, mask = photo_of_a_ball(centre=(24, 50))
    rows = np.mgrid[:HEIGHT, :WIDTH][0]
    photo[rows >= 40] = (200, 190, 60)  # a table's edge: as striking as the ball
    contrast = boundary_contrast(photo, 60)
    assert contrast[mask].mean() > 0.8
    assert contrast[rows >= 44].mean() < 0.2


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_photo_of_nothing_has_a_target_of_nothing(value):
    found = photo_targets(np.full((HEIGHT, WIDTH, 3), value, np.uint8), FAST)
    assert not found.masks.any()


@settings(max_examples=15)
@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    count=st.integers(4, 30),
    seed=st.integers(0, 9),
)
def test_superpixels_part_the_photo(height, width, count, seed):
    lab = np.random.default_rng(seed).uniform(0, 100, (height, width, 3)).astype(np.float32)
    parts = superpixels(lab, count)
    patches = len(parts.colours)
    assert parts.labels.shape == (height, width)
    assert set(np.unique(parts.labels)) == set(range(patches))
    np.testing.assert_allclose(parts.colours[0], lab[parts.labels == 0].mean(axis=0), rtol=1e-4)
    assert (parts.touching == parts.touching.T).all()
    assert not parts.touching.diagonal().any()
    assert parts.on_border[parts.labels[0]].all()
    assert ((parts.places >= 0) & (parts.places <= 1)).all()


@given(seed=st.integers(0, 99), nodes=st.integers(2, 9))
def test_shortest_paths_are_dijkstras(seed, nodes):
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(1, 9, (nodes, nodes))
    lengths = np.where(rng.random((nodes, nodes)) < 0.5, lengths, np.inf)
    lengths = np.minimum(lengths, lengths.T)
    np.fill_diagonal(lengths, 0)
    expected = [dijkstra(lengths, start) for start in range(nodes)]
    np.testing.assert_allclose(_shortest_paths(lengths), expected)


def dijkstra(lengths, start):
    distance = np.full(len(lengths), np.inf)
    queue = [(0.0, start)]
    while queue:
        so_far, node = heapq.heappop(queue)
        if so_far < distance[node]:
            distance[node] = so_far
            for other, length in enumerate(lengths[node]):
                if np.isfinite(length):
                    heapq.heappush(queue, (so_far + length, other))
    return distance


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, seed in (("one", 0), ("more/two", 1)):
        Image.fromarray(photo_of_a_ball(seed)[0]).save(folder / f"{name}.png")
    return folder


def test_photos_are_found_at_any_depth_and_written_once(photos, tmp_path):
    found = find_photos(photos)
    assert [photo.name for photo in found] == ["one.png", "more/two.png"]
    seen = []
    for _ in range(2):
        write_photo_targets(
            found, tmp_path / "out", FAST, workers=1, on_photo=lambda *photo: seen.append(photo)
        )
    assert seen == [("one", 1), ("more_two", 1)]


def test_the_masks_come_at_the_short_edge_asked_for(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    main([str(photos), str(tmp_path / "out"), "--short-edge", "30", "--workers", "1"])
    assert "more_two: 1 targets" in caplog.messages
    assert read_mover_targets(tmp_path / "out" / "one.npz").masks.shape == (1, 30, 40)


def test_a_folder_without_photos_and_a_broken_photo_are_named(photos, tmp_path):
    with pytest.raises(InputError, match="No such folder"):
        find_photos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No photo in"):
        find_photos(tmp_path / "empty")
    (photos / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(MediaError, match=r"1 of 3 clips cannot be read \(bad: "):
        write_photo_targets(find_photos(photos), tmp_path / "out", FAST, workers=1)


def clip_of(name, count):
    frames = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    return TargetClip(
        name, tuple(range(count)), frames, frames[:, :1], torch.ones(count, dtype=torch.float32)
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_photos_is_kept_however_many_there_are(share):
    config = TrainingConfig(objective="mover", crop=(16, 16), batch_size=400, photo_share=share)
    photos = [clip_of(f"photo-{number}", 1) for number in range(50)]
    sampler = TargetSampler([clip_of("clip", 9)], config, ALONE.device, photos)
    names = next(sampler).names
    drawn = sum(name.startswith("photo") for name in names) / len(names)
    assert drawn == pytest.approx(share, abs=0.08)  # 400 draws


def test_photos_are_refused_where_motion_is_needed(photos, tmp_path):
    with pytest.raises(ConfigError, match="--objective mover only"):
        open_batches(
            [str(photos)], TrainingConfig(), ALONE, RunFolder(tmp_path / "run"), photos=photos
        )


def test_a_run_learns_from_clips_and_photos(photos, tmp_path):
    clip = write_lossless(tmp_path / "square.mkv", moving_square())
    flags = "--objective mover --minutes 0 --steps 2 --batch-size 4 --short-edge 32 --crop 32x48"
    model = "--stage-widths 8,8,8,8 --head-channels 8 --motion-size 64x64 --no-channels-last"
    out = tmp_path / "run"
    command = ["train", str(clip), "--out", str(out), "--photos", str(photos)]
    result = CliRunner().invoke(cli, [*command, *flags.split(), *model.split(), "--log-every", "1"])
    assert result.exit_code == 0, result.output
    assert (out / "photo_targets" / "one.npz").is_file()
    assert (out / "weights" / "model.safetensors").is_file()
    (photos / "one.png").rename(photos / "uno.png")
    result = CliRunner().invoke(cli, [*command, "--resume", "--steps", "3"])
    assert result.exit_code == 2
    assert "photos without one.png" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (out / "photo_targets" / "uno.npz").exists()
