"""Clicks on photos and in clips: the object that is meant, and where points are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from amd_seg.clicks import segment_by_clicks
from amd_seg.colour_model import iou
from amd_seg.errors import InputError
from amd_seg.media.images import photo_from_array
from amd_seg.media.video import open_video
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.config import AdaptationConfig
from amd_seg.video_segmenter import VideoSegmenter, frames_at
from tests.clips import moving_patch, write_lossless
from tests.processes import good, runner

SIZE = 320, 240
BALL, BOX = (40, 70, 120, 150), (210, 90, 280, 170)
STILL = np.zeros((96, 128), bool)
STILL[60:90, 90:120] = True
ON_BALL, ON_BOX, ON_GROUND = (80, 110), (245, 130), (160, 30)


def inside(shape: str) -> np.ndarray:
    canvas = Image.new("1", SIZE)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse(BALL, 1) if shape == "ball" else draw.rectangle(BOX, 1)
    return np.asarray(canvas)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """A red ball and a blue box before a green ground, with the noise of a camera."""
    image = np.full((SIZE[1], SIZE[0], 3), (70, 130, 60), float)
    image[inside("ball")] = 190, 50, 40
    image[inside("box")] = 50, 70, 180
    image += np.random.default_rng(0).normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photo(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "shapes.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    return path


@pytest.fixture
def ball(pixels: np.ndarray) -> Segmentation:
    """What a network gives that finds the ball alone."""
    cells = np.asarray(Image.fromarray(inside("ball")).convert("L").resize((27, 20)), np.float32)
    region_masks = np.stack((cells / 255, 1 - cells / 255))
    return Segmentation(photo_from_array(pixels), region_masks, 0, refine="ranking")


def test_clicks_give_other_objects_and_take_parts_away(ball: Segmentation) -> None:
    for clicks, shape in (
        ([ON_BOX], inside("box")),
        ([ON_BOX, ON_BALL], inside("ball") | inside("box")),
    ):
        clicked = ball.clicked(include=clicks)
        assert iou(clicked.mask, shape) > 0.9
        assert clicked.confidence > 0.8
        other_order = ball.clicked(include=clicks[::-1])
        np.testing.assert_allclose(other_order.saliency, clicked.saliency, atol=1e-4)
    assert iou(ball.mask, inside("ball")) > 0.9  # The result that was clicked on is as it was.
    assert iou(ball.clicked([ON_BALL], [ON_BOX, ON_GROUND]).mask, inside("ball")) > 0.9
    assert not ball.clicked(exclude=[ON_BALL]).mask[ON_BALL[::-1]]


def test_an_excluded_point_leaves_an_included_one_beside_it(ball: Segmentation) -> None:
    clicked = ball.clicked([ON_BALL], [(ON_BALL[0] + 3, ON_BALL[1])])
    assert clicked.mask[ON_BALL[::-1]]
    assert iou(clicked.mask, inside("ball")) > 0.9


def test_a_click_on_a_scrap_keeps_the_rest(pixels: np.ndarray, ball: Segmentation) -> None:
    spotted = pixels.copy()
    spotted[40:50, 180:190] = 190, 50, 40
    result = Segmentation(photo_from_array(spotted), ball.region_masks, 0, refine="ranking")
    clicked = result.clicked([(185, 45)])
    assert clicked.mask[45, 185]
    assert iou(clicked.mask, inside("ball")) > 0.8


def test_clicks_are_at_the_pixels_of_a_large_photo(ball: Segmentation, pixels: np.ndarray) -> None:
    large = pixels.repeat(12, 0).repeat(12, 1)  # 11 megapixels.
    result = Segmentation(photo_from_array(large), ball.region_masks, 0, refine="ranking")
    clicked = result.clicked([tuple(12 * place for place in ON_BOX)])
    assert clicked.mask[12 * ON_BOX[1], 12 * ON_BOX[0]]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 7), (40, 2000)])
@pytest.mark.parametrize("cells", [(1, 1), (9, 12), (72, 96)])
def test_photos_and_maps_of_any_size(size: tuple[int, int], cells: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (*size, 3), np.uint8)
    saliency = generator.random(cells, np.float32)
    last = size[1] - 1, size[0] - 1
    result = segment_by_clicks(pixels, saliency, "ranking", [last], [(0, 0)])
    assert (result.shape, result.dtype) == (size, np.float32)
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize("point", [(-1, 5), (320, 5), (5, 240), (float("nan"), 5)])
def test_clicks_outside_name_point_and_size(ball: Segmentation, point: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=rf"{point[0]:g},{point[1]:g}.*320x240"):
        ball.clicked([ON_BALL], [point])


def test_points_are_those_of_the_photo_as_shown(photo: Path, weights: Path, tmp_path: Path) -> None:
    upright, exif = Image.open(photo), Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter, clockwise, when shown.
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "plain.png")
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    turned, plain = (
        segmenter(tmp_path / f"{name}.png", include=[ON_BOX], exclude=[ON_GROUND]).mask
        for name in ("turned", "plain")
    )
    np.testing.assert_array_equal(turned, plain)
    assert plain[ON_BOX[::-1]]
    with pytest.raises(InputError, match="one photo"):
        segmenter([photo], include=[ON_BOX])


def test_the_command_takes_clicks(photo: Path, weights: Path, tmp_path: Path) -> None:
    clicks = "--include", "245,130", "--exclude", "80,110"
    good(runner("image", weights)(photo, "-o", tmp_path / "mask.png", *clicks))
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert (mask[ON_BOX[::-1]], mask[ON_BALL[::-1]]) == (True, False)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch that moves over a ground on which a red box stands still; 10 frames a second."""
    frames = moving_patch(10, height=96, width=128, side=28)[0].copy()
    frames[:, STILL] = 220, 30, 30
    return write_lossless(tmp_path_factory.mktemp("clips") / "clip.mkv", frames)


def test_a_clip_is_adapted_to_the_object_that_is_clicked(clip: Path, weights: Path) -> None:
    video = VideoSegmenter.from_pretrained(weights, device="cpu")
    config = AdaptationConfig(steps=100, learning_rate=3e-3, batch_size=2, size=96, scale=(0.8, 1))
    video.adapt(clip, config, include=[(0, 105, 75)], exclude=[(0.05, 20, 20)])
    found = np.stack([frame.saliency for frame in video(clip)])
    # Measured 0.22 and 0.12, of a network that knew nothing before: what moves is another thing.
    assert found[:, STILL].mean() > 1.5 * found[:, ~STILL].mean()
    for wrong, told in (
        ((0, 300, 5), "300,5"),
        ((10, 5, 5), r"number 10\. Its last one is number 9, at 0\.9 s"),
        ((7.5, 5, 5), r"no frame at 7\.5 s"),
    ):
        with pytest.raises(InputError, match=told):
            video.adapt(clip, config, include=[wrong])
    with pytest.raises(InputError, match="photometric"):
        video.adapt(clip, AdaptationConfig(objective="photometric"), include=[(0, 5, 5)])
    frames = frames_at(open_video(clip), [3, 0.0, 0.25, 0.999, 9])
    assert [frame.index for frame in frames] == [3, 0, 2, 9, 9]


def test_the_command_takes_clicks_in_a_clip(clip: Path, weights: Path, tmp_path: Path) -> None:
    learning = "--adapt", "--steps", 3, "--include", "0.2s:105,75"
    good(runner("video", weights)(clip, "-o", tmp_path / "masks", *learning))
