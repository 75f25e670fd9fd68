import dataclasses
import io
import logging
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn.functional import interpolate

from amd_seg import DeviceError, InputError, MediaError, Segmentation, Segmenter, WeightsError
from amd_seg.choices import DEFAULT_REFINEMENT, OUTPUTS, REFINEMENTS
from amd_seg.device import _warn_where_emulated
from amd_seg.errors import AmdSegError
from amd_seg.media.images import Photo
from amd_seg.refine import refine_map
from amd_seg.segmenter import network_size, prepare
from amd_seg.weights import bundled_weights
from tests.scenes import scenes


@pytest.fixture(scope="session")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter.from_pretrained(weights, device="cpu")


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A bright square on noise."""
    pixels = np.random.default_rng(seed).integers(0, 120, (height, width, 3), np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 200, 40)
    return pixels


def result_of(saliency: np.ndarray, rule: float | str = 0.5) -> Segmentation:
    """A result whose region 0 is `saliency`, at the photo's size."""
    masks = np.stack([saliency, 1 - saliency]).astype(np.float32)
    pixels = np.full((*saliency.shape, 3), 90, np.uint8)
    return Segmentation(Photo(pixels, None, "made"), masks, 0, rule)


INPUTS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "str": lambda path, pixels: str(path),
    "bytes": lambda path, pixels: path.read_bytes(),
    "PIL": lambda path, pixels: Image.open(path),
    "RGBA": lambda path, pixels: np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    "float": lambda path, pixels: pixels.astype(np.float32) / 255,
    "torch": lambda path, pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "torch-float": lambda path, pixels: torch.from_numpy(pixels).permute(2, 0, 1).double() / 255,
    "read-only": lambda path, pixels: Photo(
        np.frombuffer(pixels, np.uint8).reshape(40, 60, 3), None, "x"
    ),
}


@pytest.mark.parametrize("as_input", INPUTS.values(), ids=INPUTS)
def test_every_kind_of_input_gives_the_same(
    segmenter: Segmenter, tmp_path: Path, as_input: Callable[[Path, np.ndarray], object]
) -> None:
    pixels = photo()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    result = segmenter(as_input(tmp_path / "photo.png", pixels))  # type: ignore[call-overload]
    np.testing.assert_array_equal(result.saliency, segmenter(pixels).saliency)


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (torch.zeros(2, 3, 20, 20), "list of such tensors"),
        (torch.zeros(20, 20, 3), r"Give \(3, height, width\)"),
        (7, "Give a path"),
    ],
)
def test_what_is_no_image_is_told_so(segmenter: Segmenter, image: object, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        segmenter(image)  # type: ignore[call-overload]
    assert segmenter(torch.rand(3, 20, 30).bfloat16()).mask.shape == (20, 30)
    assert segmenter(photo()[..., 0]).mask.shape == (40, 60)


@given(
    height=st.integers(8, 100_000), width=st.integers(8, 100_000), size=st.sampled_from([16, 392])
)
def test_the_network_sees_a_bounded_frame(height: int, width: int, size: int) -> None:
    assert network_size(480, 854, 392) == (392, 697)  # As published.
    assert network_size(637, 480, 392) == (520, 392)
    short, long = sorted(network_size(height, width, size))
    assert size // 4 <= short <= size
    assert long <= 4 * size
    if max(height, width) <= 4 * min(height, width):
        assert short == size


def test_enlarging_is_as_published_and_reducing_makes_no_patterns() -> None:
    import cv2

    pixels = photo(30, 41)
    frame = prepare(pixels, 48, 10_000)[1].permute(1, 2, 0).numpy()
    reference = cv2.resize(pixels, (frame.shape[1], frame.shape[0]))
    # OpenCV and torch round their fixed-point weights differently.
    assert np.abs(frame.astype(int) - reference).max() <= 1
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    frame = prepare(stripes, 24, 10_000)[1].float()
    assert frame.std() < 8
    assert frame.mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize("shape", [(41, 67), (8, 4000), (4000, 8), (8, 8)])
def test_maps_keep_their_promises_at_any_size(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    pixels = photo(*shape)
    result, plain = segmenter(pixels), segmenter(pixels, refine="none")
    assert result.saliency.shape == result.mask.shape == shape
    assert (result.saliency.dtype, result.mask.dtype) == (np.float32, np.bool_)
    assert 0 <= result.saliency.min() <= result.saliency.max() <= 1
    assert (result.threshold, result.source) == (0.25, "array")
    np.testing.assert_array_equal(result.mask, result.saliency > 0.25)
    assert result.regions.shape == (5, *shape)
    np.testing.assert_allclose(result.regions.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(plain.regions[1], plain.saliency)
    np.testing.assert_array_equal(plain.regions, result.regions)
    with torch.inference_mode():
        masks = segmenter.model.segment(prepare(pixels, 48, 100_000)[1][None])
    expected = interpolate(masks, shape, mode="bilinear", align_corners=True)[0, 1]
    np.testing.assert_allclose(plain.saliency, expected.numpy(), atol=2e-6)
    refined = refine_map(pixels, plain.region_masks[1], DEFAULT_REFINEMENT)
    np.testing.assert_array_equal(result.saliency, refined)


def test_otsu_splits_two_levels_between_them() -> None:
    saliency = np.full((20, 20), 0.1, np.float32)
    assert result_of(saliency, "otsu").threshold == 0.5
    saliency[5:9, 5:9] = 0.6
    result = result_of(saliency, "otsu")
    assert 0.3 < result.threshold < 0.4
    assert result.mask.sum() == 16


def test_confidence_is_the_iou_that_the_map_expects() -> None:
    generator = np.random.default_rng(0)
    saliency = generator.beta(0.4, 0.6, (30, 30)).astype(np.float32)
    truths = generator.random((2000, 30, 30)) < saliency
    mask = saliency > 0.5
    ious = (truths & mask).sum(axis=(1, 2)) / (truths | mask).sum(axis=(1, 2))
    assert result_of(saliency).confidence == pytest.approx(ious.mean(), abs=0.002)
    sharp = np.zeros((20, 20), np.float32)
    sharp[5:9, 5:9] = 1
    for saliency, confidence in (
        (sharp * 0 + 0.2, 0),
        (sharp, 1),
        (sharp * 0.6, 0.6),
        (sharp * 0.6 + 0.02, 16 * 0.62 / (16 + 384 * 0.02)),
        (sharp * 0.1 + 0.45, 16 * 0.55 / (16 + 384 * 0.45)),
    ):
        result = result_of(saliency)
        assert result.confidence == pytest.approx(confidence)
        for least in (result.confidence, result.confidence + 1e-6):
            doubtful = dataclasses.replace(result, min_confidence=least)
            has_object = result.mask.any() and least == result.confidence
            assert doubtful.mask.any() == np.asarray(doubtful.cutout()).any() == has_object
            np.testing.assert_array_equal(doubtful.saliency, saliency)


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_no_map_is_stretched(refine: str) -> None:
    cells = np.linspace(0.2, 0.3, 30, dtype=np.float32).reshape(5, 6)
    masks = np.stack([cells, 1 - cells])
    result = Segmentation(Photo(photo(50, 60), None, "made"), masks, 0, refine=refine)
    # Colours are evidence of their own: they may add to what the map says, but little.
    most = 0.4 if refine in ("ranking", "grabcut") else 0.31
    assert result.saliency.max() < most
    assert np.asarray(result.render("saliency")).max() < most * 255
    assert result.confidence == 0
    assert not result.mask.any()


@pytest.mark.parametrize(
    ("output", "mode"),
    [("mask", "L"), ("saliency", "L"), ("cutout", "RGBA"), ("overlay", "RGB"), ("regions", "RGB")],
)
def test_every_output_is_written_whole_with_what_its_colours_need(
    segmenter: Segmenter, tmp_path: Path, output: str, mode: str
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source, told = tmp_path / "photo.png", {"icc_profile": profile, "dpi": (300, 150)}
    Image.fromarray(photo(150, 100)).save(source, **told)
    result = segmenter(source)
    path = result.save(tmp_path / "out.png", output)
    assert path == tmp_path / "out.png"
    has_colours = output in ("cutout", "overlay")
    dpi = pytest.approx((300, 150), abs=0.1) if has_colours else None
    for content in (path.read_bytes(), result.encode(output)):
        image = Image.open(io.BytesIO(content))
        assert (image.mode, image.size, image.info.get("dpi")) == (mode, (100, 150), dpi)
        assert image.info.get("icc_profile") == (profile if has_colours else None)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(result.render(output)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "photo.png"]
    with pytest.raises(InputError, match=", ".join(OUTPUTS)):
        result.render("video")


def test_a_batch_equals_its_images_one_by_one_and_keeps_their_order(segmenter: Segmenter) -> None:
    shapes = [(40, 60), (60, 40), (40, 60), (33, 50), (40, 60), (8, 90), (40, 60)]
    images = [photo(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    results = list(segmenter(iter(images), batch_size=3))
    assert [result.mask.shape for result in results] == shapes
    for image, result in zip(images, results, strict=True):
        # A batch may add up in another order than a single image.
        np.testing.assert_allclose(result.saliency, segmenter(image).saliency, atol=1e-5)


def test_sources_are_read_as_needed_and_errors_told(segmenter: Segmenter, tmp_path: Path) -> None:
    seeds = count()
    results = segmenter((photo(16, 16, seed=seed) for seed in seeds), batch_size=2)
    assert len(list(islice(results, 5))) == 5
    # The batch of the fifth, and as many again that are read meanwhile.
    assert next(seeds) <= 6 + 2
    images = [photo(), tmp_path / "none.png", photo()]
    outcomes = list(segmenter.stream(images, batch_size=2))
    assert [isinstance(outcome, AmdSegError) for outcome in outcomes] == [False, True, False]
    results = segmenter(images)
    assert next(results).mask.shape == (40, 60)
    with pytest.raises(MediaError, match=r"none\.png"):
        next(results)
    assert list(segmenter([])) == []


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"size": 4}, "16 to 8192"),
        ({"batch_size": 0}, "1 or more"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"threshold": "best"}, "otsu"),
        ({"refine": "crf"}, "none, guided, ranking, grabcut"),
        ({"min_confidence": 1.5}, "0 to 1"),
    ],
)
def test_settings_are_checked_before_an_image_is_read(
    segmenter: Segmenter, settings: dict[str, object], advice: str
) -> None:
    with pytest.raises(InputError, match=advice):
        segmenter([], **settings)  # type: ignore[call-overload]


def test_auto_says_which_device_it_took_and_what_is_not_here_is_an_error(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "amd_seg"):
        device = Segmenter.from_pretrained(weights).device
    assert f"Using device {device}." in caplog.text
    for wrong, told in ({"device": "cuda:99"}, "cuda:99"), ({"precision": "float8"}, "bfloat16"):
        with pytest.raises(DeviceError, match=told):
            Segmenter.from_pretrained(weights, **wrong)
    damaged = Segmenter.from_pretrained(weights, device="cpu")
    with torch.no_grad():
        next(damaged.model.appearance.parameters()).fill_(torch.nan)
    with pytest.raises(WeightsError, match="no finite numbers for array"):
        damaged(photo())


def test_bfloat16_is_near_float32_and_in_software_warned_of_once(
    weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _warn_where_emulated.cache_clear()
    # As torch answers on a CPU without AVX-512.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for _ in range(2):
        reduced = Segmenter.from_pretrained(weights, device="cpu", precision="bfloat16")
    assert caplog.text.count("Use float32.") == 1
    result = reduced(photo())
    assert result.saliency.dtype == np.float32
    exact = Segmenter.from_pretrained(weights, device="cpu")(photo())
    np.testing.assert_allclose(result.saliency, exact.saliency, atol=0.02)


@pytest.mark.gpu
def test_cuda_equals_the_cpu(weights: Path, segmenter: Segmenter) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images = [photo(seed=seed) for seed in range(3)]
    on_cuda = Segmenter.from_pretrained(weights, device="cuda")
    for result, expected in zip(on_cuda(images), segmenter(images), strict=True):
        np.testing.assert_allclose(result.saliency, expected.saliency, atol=2e-3)


def test_skies_and_surfaces_are_no_objects() -> None:
    if not bundled_weights():
        pytest.skip("this checkout has no bundled weights")
    segmenter = Segmenter.from_pretrained(device="cpu")
    pictures = [pixels for _, pixels in scenes(2)]
    # Surest of a wall of bricks, 0.45; half of ECSSD's photos are above 0.66.
    for result in segmenter(pictures, min_confidence=0.5):
        assert not result.mask.any(), result.confidence


def test_a_large_jpeg_is_first_read_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:3000, :4000]
    is_disc = np.hypot(y - 1500, x - 2200) < 900
    values = np.where(is_disc[..., None], (220, 60, 40), (90, 130, 80)) + (x % 400 // 10)[..., None]
    path, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values.astype(np.uint8)).save(path, exif=exif)
    loaded, load = [], JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda self: loaded.append(self.size) or load(self))
    segmenter = Segmenter.from_pretrained(device="cpu")
    result = segmenter(path, refine="none")
    assert result.mask.shape == (4000, 3000)
    assert {*loaded} == {(1000, 750)}
    pixels = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270))
    assert (result.mask != segmenter(pixels, refine="none").mask).mean() < 0.005
    assert 0.05 < result.mask.mean() < 0.95
    assert result.cutout().size == (3000, 4000)
    assert loaded[-1] == (4000, 3000)
    np.testing.assert_array_equal(result.photo.pixels, pixels)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(MediaError, match="cut short"):
        segmenter(path, refine="none")
