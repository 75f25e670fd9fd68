"""Pictures of a result, from arrays whose pictures can be told beforehand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from amd_seg.errors import InputError
from amd_seg.media.render import (
    CONTOUR,
    TINT,
    TINT_SHARE,
    region_palette,
    render_cutout,
    render_mask,
    render_overlay,
    render_regions,
    render_saliency,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 256, (30, 40, 3), np.uint8)
SQUARE = np.zeros((30, 40), np.bool_)
SQUARE[10:20, 15:30] = True


def test_a_mask_is_black_and_white() -> None:
    picture = render_mask(SQUARE)
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), np.where(SQUARE, 255, 0))


def test_saliency_is_rounded_and_never_stretched() -> None:
    saliency = np.array([[0.25, 0.5, 0.502, 0.75 + 1e-7]], np.float32)
    np.testing.assert_array_equal(np.asarray(render_saliency(saliency)), [[64, 128, 128, 191]])
    beyond = np.array([[-1e-7, 1 + 1e-6]], np.float32)
    np.testing.assert_array_equal(np.asarray(render_saliency(beyond)), [[0, 255]])


@given(arrays.arrays(np.float32, (30, 40), elements=st.sampled_from([0.0, 0.001, 0.002, 0.5, 1.0])))
def test_a_cutout_hides_no_background(saliency: np.ndarray) -> None:
    picture = render_cutout(PIXELS, saliency)
    assert picture.mode == "RGBA"
    values = np.asarray(picture)
    np.testing.assert_array_equal(values[..., 3], np.asarray(render_saliency(saliency)))
    visible = values[..., 3] > 0
    np.testing.assert_array_equal(values[visible, :3], PIXELS[visible])
    assert not values[~visible].any()


def test_an_overlay_tints_the_object_draws_its_edge_and_leaves_the_rest() -> None:
    picture = np.asarray(render_overlay(PIXELS, SQUARE))
    np.testing.assert_array_equal(picture[~SQUARE], PIXELS[~SQUARE])
    inside = np.zeros_like(SQUARE)
    inside[11:19, 16:29] = True
    tinted = (1 - TINT_SHARE) * PIXELS[inside] + TINT_SHARE * np.array(TINT)
    np.testing.assert_allclose(picture[inside], tinted, atol=0.51)
    assert (picture[SQUARE & ~inside] == CONTOUR).all()


def test_no_line_runs_along_the_border_of_the_picture() -> None:
    everything = np.ones((30, 40), np.bool_)
    assert not (np.asarray(render_overlay(PIXELS, everything)) == CONTOUR).all(axis=-1).any()
    nothing = ~everything
    np.testing.assert_array_equal(np.asarray(render_overlay(PIXELS, nothing)), PIXELS)


@pytest.mark.parametrize("edge", [30, 500, 900, 1300])
def test_the_line_grows_with_the_picture(edge: int) -> None:
    """Held against Pillow's minimum filter, which looks at every pixel of the square."""
    pixels = np.zeros((edge, 1400, 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[edge // 4 : edge // 2, 300:900] = True
    mask[edge // 3, 500] = False
    reach = max(1, round(edge / 250))
    core = np.asarray(
        Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(2 * reach + 1))
    )
    line = (np.asarray(render_overlay(pixels, mask)) == CONTOUR).all(axis=-1)
    np.testing.assert_array_equal(line, mask & (core == 0))


def test_regions_take_the_colour_of_the_strongest() -> None:
    regions = RNG.dirichlet(np.ones(5), (30, 40)).transpose(2, 0, 1).astype(np.float32)
    colours = region_palette(5)[regions.argmax(axis=0)]
    plain = render_regions(None, regions)
    assert plain.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(plain), colours)
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))[..., np.newaxis]
    np.testing.assert_allclose(
        np.asarray(render_regions(PIXELS, regions)), (colours.astype(float) + grey) / 2, atol=1
    )


def test_blocks_of_rows_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = RNG.dirichlet(np.ones(3), (30, 40)).transpose(2, 0, 1).astype(np.float32)
    whole = [render_regions(PIXELS, regions), render_saliency(regions[0])]
    monkeypatch.setattr("amd_seg.media.pixels.BLOCK_PIXELS", 90)
    parts = [render_regions(PIXELS, regions), render_saliency(regions[0])]
    assert whole == parts


def test_palette_colours_differ() -> None:
    assert len({tuple(colour) for colour in region_palette(64).tolist()}) == 64


# From linear RGB to what an eye without one kind of cone sees (Vienot, Brettel and Mollon 1999,
# "Digital video colourmaps for checking the legibility of displays by dichromats").
DICHROMATS = {
    "red-blind": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "green-blind": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("eye", DICHROMATS)
def test_the_first_colours_differ_for_colour_blind_eyes(eye: str) -> None:
    linear = (region_palette(5) / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(DICHROMATS[eye]).T, 0, 1) ** (1 / 2.2) * 255
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[~np.eye(5, dtype=bool)].min() > 70


def test_maps_of_another_size_are_refused() -> None:
    small = np.zeros((3, 20, 40), np.float32)
    for render in (
        lambda: render_cutout(PIXELS, small[0]),
        lambda: render_overlay(PIXELS, small[0] > 0),
        lambda: render_regions(PIXELS, small),
    ):
        with pytest.raises(InputError, match=r"\(20, 40\) on pixels of shape \(30, 40, 3\)"):
            render()
