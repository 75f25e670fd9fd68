from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.background import open_background, render_on
from amd_seg.media.render import render_cutout

HEIGHT, WIDTH = 120, 160
DISC = np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] - np.array([[[60]], [[80]]]))) < 30


def scene() -> np.ndarray:
    """A red disc on fine green stripes."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, ::2, 1] = 200
    pixels[DISC] = (220, 10, 10)
    return pixels


def shown_on(spec: str | Path, saliency: np.ndarray) -> np.ndarray:
    background = open_background(spec, WIDTH, HEIGHT)
    alpha = np.rint(255 * saliency).astype(np.uint8)
    picture = render_on(scene(), render_cutout(scene(), alpha), background)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("spec", "colour"), [("white", 255), ("#00ff00", (0, 255, 0)), ("rgb(1,2,3)", (1, 2, 3))]
)
def test_a_colour(spec: str, colour: object) -> None:
    picture = shown_on(spec, DISC)
    assert (picture[~DISC] == colour).all()
    np.testing.assert_array_equal(picture[DISC], scene()[DISC])


def test_a_soft_edge_mixes_and_leaves_no_halo() -> None:
    soft = np.clip((33 - np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] - [[[60]], [[80]]]))) / 6, 0, 1)
    picture = shown_on("white", soft)
    edge = (soft > 0.1) & (soft < 0.5)
    # Red on white has as much green as blue; mixed as it is, the stripes would add 30 on average.
    assert np.abs(picture[edge][:, 1] - picture[edge][:, 2]).mean() < 12
    np.testing.assert_array_equal(picture[soft == 1], scene()[soft == 1])


def test_a_picture_fills_the_frame_and_keeps_its_shape(tmp_path: Path) -> None:
    x = np.linspace(0, 255, 90).astype(np.uint8)
    tall = np.zeros((300, 90, 3), np.uint8)
    tall[..., 0] = x
    Image.fromarray(tall).save(tmp_path / "tall.png")
    picture = shown_on(tmp_path / "tall.png", np.zeros(DISC.shape))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[0, 0, 0] < 5
    assert picture[-1, -1, 0] > 250


def test_blur_takes_away_detail_and_lets_no_object_spill() -> None:
    picture = shown_on("blur", DISC)
    np.testing.assert_array_equal(picture[DISC], scene()[DISC])
    assert picture[~DISC][:, 0].max() <= 8  # no red of the disc
    inside = picture[:, 10:-10, 1][~DISC[:, 10:-10]]
    assert np.abs(inside - 100).max() < 15  # no stripes left


def test_what_is_no_background_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown background 'whitte'\. Give blur, a colour"):
        open_background("whitte", WIDTH, HEIGHT)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png"):
        open_background(tmp_path / "text.png", WIDTH, HEIGHT)
