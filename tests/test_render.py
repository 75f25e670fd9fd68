"""Pictures of a result, from arrays whose pictures can be told beforehand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from amd_seg.errors import InputError, MediaError
from amd_seg.media import render

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 256, (30, 40, 3), np.uint8)
REGIONS = RNG.dirichlet(np.ones(5), (30, 40)).transpose(2, 0, 1).astype(np.float32)


def test_maps_become_greys_and_are_never_stretched() -> None:
    square = np.pad(np.ones((10, 15), np.bool_), 10)
    assert render.render_mask(square).mode == "L"
    np.testing.assert_array_equal(np.asarray(render.render_mask(square)), np.where(square, 255, 0))
    # Beyond 0..1 by rounding errors.
    saliency = np.array([[-1e-7, 0.25, 0.5, 0.502, 0.75 + 1e-7, 1 + 1e-6]], np.float32)
    greys = np.asarray(render.render_saliency(saliency))
    np.testing.assert_array_equal(greys, [[0, 64, 128, 128, 191, 255]])
    # A cutout's render.opacity is soft around the threshold.
    np.testing.assert_array_equal(render.opacity(saliency, 0.5), [[0, 0, 128, 129, 255, 255]])
    np.testing.assert_array_equal(render.opacity(saliency, 0.3)[0, :2], [0, 51])


def test_a_cutout_hides_no_background_and_has_the_colours_of_the_method() -> None:
    alpha = RNG.choice(np.array([0, 60, 200, 255], np.uint8), (30, 40))
    share = alpha[..., None] / 255

    def slow_mean(values: np.ndarray, weights: np.ndarray, reach: int) -> np.ndarray:
        """The weighted mean of each pixel's square, one by one."""
        result = np.zeros_like(values)
        for y, x in np.ndindex(values.shape[:2]):
            window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            sharp = weights[window] ** render.SHARPNESS
            if sharp.any():
                result[y, x] = (values[window] * sharp).sum(axis=(0, 1)) / sharp.sum()
        return result

    object_, background = PIXELS.astype(float), PIXELS.astype(float)
    for reach in render.REACHES:
        object_ = slow_mean(object_, share, reach)
        background = slow_mean(background, 1 - share, reach)
        object_ += share * (PIXELS - share * object_ - (1 - share) * background)
        object_ = np.clip(object_, 0, 255)
    picture = np.asarray(render.render_cutout(PIXELS, alpha))
    np.testing.assert_array_equal(picture[..., 3], alpha)
    np.testing.assert_array_equal(picture[alpha == 255, :3], PIXELS[alpha == 255])
    assert not picture[alpha == 0].any()
    # The two smooth colours are rounded before they are enlarged.
    np.testing.assert_allclose(picture[alpha > 0, :3], object_[alpha > 0], atol=1.6)


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
    colours = np.asarray(render.render_cutout(pixels, alpha)).astype(float)[..., :3]
    halo = np.abs(pixels - disc)[edge].mean()
    assert np.abs(colours - disc)[edge].mean() < 0.1 * halo


@pytest.mark.parametrize("edge", [30, 500, 900, 1300])
def test_an_overlay_tints_the_object_and_draws_a_line_inside_it(edge: int) -> None:
    """The line is held against Pillow's minimum filter, which looks at every pixel."""
    pixels = np.random.default_rng(0).integers(0, 200, (edge, 1400, 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[: edge // 2, 300:900] = True  # Along the border there is no line.
    mask[edge // 3, 500] = False
    side = 2 * max(1, round(edge / 250)) + 1
    core = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(side))) > 0
    picture = np.asarray(render.render_overlay(pixels, mask))
    np.testing.assert_array_equal((picture == render.CONTOUR).all(axis=-1), mask & ~core)
    np.testing.assert_array_equal(picture[~mask], pixels[~mask])
    tinted = (1 - render.TINT_SHARE) * pixels[core] + render.TINT_SHARE * np.array(render.TINT)
    np.testing.assert_allclose(picture[core], tinted, atol=0.51)


def test_regions_take_the_colour_of_the_strongest() -> None:
    assert len({tuple(colour) for colour in render.region_palette(64).tolist()}) == 64
    colours = render.region_palette(5)[REGIONS.argmax(axis=0)]
    np.testing.assert_array_equal(np.asarray(render.render_regions(None, REGIONS)), colours)
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))[..., np.newaxis]
    shown = np.asarray(render.render_regions(PIXELS, REGIONS))
    np.testing.assert_allclose(shown, (colours.astype(float) + grey) / 2, atol=1)


def test_blocks_of_rows_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = []
    for pixels in (1 << 22, 90):
        monkeypatch.setattr("amd_seg.media.images.BLOCK_PIXELS", pixels)
        drawn = [render.render_regions(PIXELS, REGIONS), render.render_saliency(REGIONS[0])]
        drawn.append(render.render_cutout(PIXELS, render.opacity(REGIONS[0], 0.3)))
        whole = whole or drawn
        assert drawn == whole


@pytest.mark.parametrize("kind", ["cutout", "overlay", "regions"])
def test_maps_of_another_size_are_refused(kind: str) -> None:
    small = np.zeros((3, 20, 40) if kind == "regions" else (20, 40), np.uint8)
    with pytest.raises(InputError, match=r"\(20, 40\) on pixels of shape \(30, 40, 3\)"):
        getattr(render, f"render_{kind}")(PIXELS, small)


DISC = np.hypot(*(np.mgrid[:120, :160] - np.array([[[60]], [[80]]]))) < 30
SCENE = np.zeros((120, 160, 3), np.uint8)  # a red disc on fine green stripes
SCENE[:, ::2, 1] = 200
SCENE[DISC] = (220, 10, 10)


def shown_on(spec: str | Path) -> np.ndarray:
    """The scene around the disc, on a background."""
    cutout = render.render_cutout(SCENE, np.where(DISC, np.uint8(255), np.uint8(0)))
    background = render.open_background(spec, 160, 120)
    picture = np.asarray(render.render_on(SCENE, cutout, background)).astype(int)
    np.testing.assert_array_equal(picture[DISC], SCENE[DISC])
    return picture


def test_colours_pictures_and_blur_are_backgrounds(tmp_path: Path) -> None:
    for spec, colour in (("white", 255), ("#00ff00", (0, 255, 0)), ("rgb(1,2,3)", (1, 2, 3))):
        assert (shown_on(spec)[~DISC] == colour).all()
    # A picture fills the frame and keeps its shape.
    tall = np.zeros((300, 90, 3), np.uint8)
    tall[..., 0] = np.linspace(0, 255, 90).astype(np.uint8)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    picture = shown_on(tmp_path / "tall.png")
    assert (picture[0, 0, 0] < 5, picture[-1, -1, 0] > 250) == (True, True)
    # Blur takes away detail and lets no object spill.
    picture = shown_on("blur")
    assert picture[~DISC][:, 0].max() <= 8  # no red of the disc
    inside = picture[:, 10:-10, 1][~DISC[:, 10:-10]]
    assert np.abs(inside - 100).max() < 15  # no stripes left
    with pytest.raises(InputError, match=r"Unknown background 'whitte'\. Give blur, a colour"):
        shown_on("whitte")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png"):
        shown_on(tmp_path / "text.png")
