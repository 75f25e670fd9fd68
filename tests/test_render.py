"""Pictures of a result, from arrays whose pictures can be told beforehand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from amd_seg.errors import InputError, MediaError
from amd_seg.media.render import (
    CONTOUR,
    REACHES,
    SHARPNESS,
    TINT,
    TINT_SHARE,
    opacity,
    open_background,
    region_palette,
    render_cutout,
    render_mask,
    render_on,
    render_overlay,
    render_regions,
    render_saliency,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 256, (30, 40, 3), np.uint8)
SQUARE = np.zeros((30, 40), np.bool_)
SQUARE[10:20, 15:30] = True


def test_maps_become_greys_and_are_never_stretched() -> None:
    picture = render_mask(SQUARE)
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), np.where(SQUARE, 255, 0))
    # Beyond 0..1 by rounding errors.
    saliency = np.array([[-1e-7, 0.25, 0.5, 0.502, 0.75 + 1e-7, 1 + 1e-6]], np.float32)
    greys = np.asarray(render_saliency(saliency))
    np.testing.assert_array_equal(greys, [[0, 64, 128, 128, 191, 255]])


def test_opacity_is_soft_around_the_threshold() -> None:
    saliency = np.array([[0.0, 0.2, 0.25, 0.5, 0.7, 0.75, 1.0]], np.float32)
    np.testing.assert_array_equal(opacity(saliency, 0.5), [[0, 0, 0, 128, 230, 255, 255]])
    np.testing.assert_array_equal(opacity(saliency, 0.3)[0, :3], [0, 25, 51])


@given(arrays.arrays(np.uint8, (30, 40), elements=st.sampled_from([0, 1, 128, 254, 255])))
def test_a_cutout_hides_no_background(alpha: np.ndarray) -> None:
    picture = render_cutout(PIXELS, alpha)
    assert picture.mode == "RGBA"
    values = np.asarray(picture)
    np.testing.assert_array_equal(values[..., 3], alpha)
    np.testing.assert_array_equal(values[alpha == 255, :3], PIXELS[alpha == 255])
    assert not values[alpha == 0].any()


def test_the_edge_of_a_large_cutout_has_the_colours_of_the_object() -> None:
    """A blurred disc of slowly changing colours over others: little of these is left."""
    height, width = 600, 520
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    away = np.hypot(rows - 0.5, (columns - 0.5) * width / height)
    alpha = np.rint(np.clip((0.4 - away) / 0.1, 0, 1) * 255).astype(np.uint8)
    disc = np.stack([200 + 40 * rows, 60 + 40 * columns, 30 + 0 * rows], axis=-1)
    ground = np.stack([20 + 0 * rows, 150 + 60 * rows, 200 - 60 * columns], axis=-1)
    share = alpha[..., None] / 255
    pixels = np.rint(share * disc + (1 - share) * ground).astype(np.uint8)
    edge = (alpha > 25) & (alpha < 230)
    colours = np.asarray(render_cutout(pixels, alpha)).astype(float)[..., :3]
    halo = np.abs(pixels - disc)[edge].mean()
    assert np.abs(colours - disc)[edge].mean() < 0.1 * halo


def test_the_colours_of_the_object_are_those_of_the_method() -> None:
    alpha = RNG.choice(np.array([0, 60, 200, 255], np.uint8), (30, 40))
    share = alpha[..., None] / 255

    def slow_mean(values: np.ndarray, weights: np.ndarray, reach: int) -> np.ndarray:
        """The weighted mean of each pixel's square, one by one."""
        result = np.zeros_like(values)
        for y, x in np.ndindex(values.shape[:2]):
            window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            sharp = weights[window] ** SHARPNESS
            if sharp.any():
                result[y, x] = (values[window] * sharp).sum(axis=(0, 1)) / sharp.sum()
        return result

    object_, background = PIXELS.astype(float), PIXELS.astype(float)
    for reach in REACHES:
        object_ = slow_mean(object_, share, reach)
        background = slow_mean(background, 1 - share, reach)
        object_ += share * (PIXELS - share * object_ - (1 - share) * background)
        object_ = np.clip(object_, 0, 255)
    colours = np.asarray(render_cutout(PIXELS, alpha))[..., :3]
    # The two smooth colours are rounded before they are enlarged.
    np.testing.assert_allclose(colours[alpha > 0], object_[alpha > 0], atol=1.6)


def test_an_overlay_tints_the_object_and_leaves_the_rest() -> None:
    picture = np.asarray(render_overlay(PIXELS, SQUARE))
    np.testing.assert_array_equal(picture[~SQUARE], PIXELS[~SQUARE])
    inside = np.zeros_like(SQUARE)
    inside[11:19, 16:29] = True
    tinted = (1 - TINT_SHARE) * PIXELS[inside] + TINT_SHARE * np.array(TINT)
    np.testing.assert_allclose(picture[inside], tinted, atol=0.51)


@pytest.mark.parametrize("edge", [30, 500, 900, 1300])
def test_the_line_runs_inside_the_object_and_grows_with_the_picture(edge: int) -> None:
    """Held against Pillow's minimum filter, which looks at every pixel of the square."""
    pixels = np.zeros((edge, 1400, 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[: edge // 2, 300:900] = True  # Along the border there is no line.
    mask[edge // 3, 500] = False
    side = 2 * max(1, round(edge / 250)) + 1
    core = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(side)))
    line = (np.asarray(render_overlay(pixels, mask)) == CONTOUR).all(axis=-1)
    np.testing.assert_array_equal(line, mask & (core == 0))


def test_regions_take_the_colour_of_the_strongest() -> None:
    regions = RNG.dirichlet(np.ones(5), (30, 40)).transpose(2, 0, 1).astype(np.float32)
    colours = region_palette(5)[regions.argmax(axis=0)]
    plain = render_regions(None, regions)
    assert plain.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(plain), colours)
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))[..., np.newaxis]
    shown = np.asarray(render_regions(PIXELS, regions))
    np.testing.assert_allclose(shown, (colours.astype(float) + grey) / 2, atol=1)


def test_blocks_of_rows_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = RNG.dirichlet(np.ones(3), (30, 40)).transpose(2, 0, 1).astype(np.float32)
    alpha = opacity(regions[0], 0.3)
    whole = []
    for pixels in (1 << 22, 90):
        monkeypatch.setattr("amd_seg.media.images.BLOCK_PIXELS", pixels)
        drawn = [render_regions(PIXELS, regions), render_saliency(regions[0])]
        drawn.append(render_cutout(PIXELS, alpha))
        whole = whole or drawn
        assert drawn == whole


# From linear RGB to what an eye without one kind of cone sees (Vienot, Brettel and Mollon 1999,
# "Digital video colourmaps for checking the legibility of displays by dichromats").
DICHROMATS = {
    "red-blind": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "green-blind": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("eye", DICHROMATS)
def test_colours_differ_the_first_for_colour_blind_eyes_too(eye: str) -> None:
    assert len({tuple(colour) for colour in region_palette(64).tolist()}) == 64
    linear = (region_palette(5) / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(DICHROMATS[eye]).T, 0, 1) ** (1 / 2.2) * 255
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[~np.eye(5, dtype=bool)].min() > 70


@pytest.mark.parametrize("render", [render_cutout, render_overlay, render_regions])
def test_maps_of_another_size_are_refused(render) -> None:
    small = np.zeros((3, 20, 40) if render is render_regions else (20, 40), np.uint8)
    with pytest.raises(InputError, match=r"\(20, 40\) on pixels of shape \(30, 40, 3\)"):
        render(PIXELS, small)


# Behind a cutout

HEIGHT, WIDTH = 120, 160
DISC = np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] - np.array([[[60]], [[80]]]))) < 30
SCENE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # a red disc on fine green stripes
SCENE[:, ::2, 1] = 200
SCENE[DISC] = (220, 10, 10)


def shown_on(spec: str | Path, saliency: np.ndarray) -> np.ndarray:
    background = open_background(spec, WIDTH, HEIGHT)
    alpha = np.rint(255 * saliency).astype(np.uint8)
    picture = render_on(SCENE, render_cutout(SCENE, alpha), background)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture)[saliency == 1], SCENE[saliency == 1])
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("spec", "colour"), [("white", 255), ("#00ff00", (0, 255, 0)), ("rgb(1,2,3)", (1, 2, 3))]
)
def test_a_colour(spec: str, colour: object) -> None:
    assert (shown_on(spec, DISC)[~DISC] == colour).all()


def test_a_picture_fills_the_frame_and_keeps_its_shape(tmp_path: Path) -> None:
    tall = np.zeros((300, 90, 3), np.uint8)
    tall[..., 0] = np.linspace(0, 255, 90).astype(np.uint8)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    picture = shown_on(tmp_path / "tall.png", np.zeros(DISC.shape))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[0, 0, 0] < 5
    assert picture[-1, -1, 0] > 250


def test_blur_takes_away_detail_and_lets_no_object_spill() -> None:
    picture = shown_on("blur", DISC)
    assert picture[~DISC][:, 0].max() <= 8  # no red of the disc
    inside = picture[:, 10:-10, 1][~DISC[:, 10:-10]]
    assert np.abs(inside - 100).max() < 15  # no stripes left


def test_what_is_no_background_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown background 'whitte'\. Give blur, a colour"):
        open_background("whitte", WIDTH, HEIGHT)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png"):
        open_background(tmp_path / "text.png", WIDTH, HEIGHT)
