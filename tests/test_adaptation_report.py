"""`--report`: what is in the page about an adaptation, and that it needs and asks for nothing."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from amd_seg.adaptation_report import check_page, loss_curve, spread
from amd_seg.cli import cli
from amd_seg.errors import InputError
from amd_seg.media.video import Frame
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.adaptation import AdaptationReport
from amd_seg.weights import save_weights
from tests.clips import moving_square, write_clip


def lines_of(svg: str) -> dict[str, np.ndarray]:
    root = ElementTree.fromstring(svg)
    return {
        line.get("class"): np.array([p.split(",") for p in line.get("points").split()], float)
        for line in root.iter("polyline")
    }


def curve(losses: list[float], before: float = 1.0, after: float = 0.5) -> str:
    facts = {"objective": "photometric", "held_out": 1, "examples": 2, "is_adapted": True}
    facts |= {"reason": "", "channel": 0, "margin": 0.1, "evidence": None, "seconds": {}}
    report = AdaptationReport(losses=tuple(losses), loss_before=before, loss_after=after, **facts)
    return loss_curve(report)


def test_a_curve_falls_where_its_values_do() -> None:
    lines = lines_of(curve(np.exp(-np.arange(50) / 20).tolist()))
    for line in lines.values():
        assert len(line) == 50
        assert (np.diff(line[:, 0]) > 0).all()
        assert (np.diff(line[:, 1]) > 0).all()  # An SVG's y goes down.
    assert lines["raw"].min() >= 0
    assert lines["raw"][:, 0].max() <= 720
    assert lines["raw"][:, 1].max() <= 260


@pytest.mark.parametrize(
    "losses", [[], [0.5], [3.0, 3.0], [0.0, 0.0], [-1e-9, 1e9], [1.0, float("nan"), 2.0]]
)
def test_any_losses_can_be_drawn(losses: list[float]) -> None:
    svg = curve(losses, after=float("inf"))
    assert len(lines_of(svg)["raw"]) == sum(loss == loss for loss in losses)
    assert svg.count("<circle") == 1
    for word in ("nan", "inf"):
        assert word not in svg


def test_dots_stand_at_their_values() -> None:
    root = ElementTree.fromstring(curve([0.5] * 10, before=1.0, after=0.0))
    dots = [float(c.get("cy")) for c in root.iter("circle")]
    line = lines_of(ElementTree.tostring(root, encoding="unicode"))["raw"]
    assert sum(dots) / 2 == pytest.approx(line[0, 1], abs=0.2)
    told = [text.text for text in root.iter("text")]
    assert told[-2:] == ["before 1.000", "after 0.000"]


def test_a_page_has_a_name_of_its_own_and_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clip\.mp4: a page ends in \.html"):
        check_page(tmp_path / "clip.mp4", overwrite=True)
    page = tmp_path / "page.htm"
    check_page(page, overwrite=False)
    page.touch()
    with pytest.raises(InputError, match=r"page\.htm exists.*--overwrite"):
        check_page(page, overwrite=False)
    check_page(page, overwrite=True)
    with pytest.raises(InputError, match=r"there is no folder .*no\. Make it first"):
        check_page(tmp_path / "no" / "page.html", overwrite=False)


@pytest.mark.parametrize("length", [1, 3, 6, 7, 13, 24, 25, 100, 1000])
def test_the_frames_shown_are_spread_over_the_clip(length: int) -> None:
    frames = (Frame(number, number / 10, np.zeros((1, 1, 3), np.uint8)) for number in range(length))
    numbers = [frame.index for frame in spread(frames, 6)]
    assert len(numbers) == min(length, 6)
    assert numbers[0] == 0
    assert numbers[-1] >= 0.75 * (length - 1)
    gaps = np.diff(numbers)
    assert (gaps > 0).all()
    assert len(gaps) == 0 or gaps.max() <= 2 * gaps.min() + 1


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory, tiny_config: AMDConfig) -> list[str]:
    """What `amd-seg video` is told to adapt tiny weights to a tiny clip."""
    folder = tmp_path_factory.mktemp("learning")
    torch.manual_seed(0)
    config = WeightsConfig(model=tiny_config, object_channel=1, input_size=48, threshold=0.2)
    weights = save_weights(folder / "weights", AMD(tiny_config), config)
    clip = write_clip(folder / "<b> & c.mp4", moving_square(20))
    flags = ["--adapt", "--objective", "photometric", "--steps", "2", "--device", "cpu"]
    return ["video", str(clip), *flags, "--weights", str(weights)]


def test_an_adaptation_is_told_in_a_page(learning: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    args = [*learning, "-o", str(tmp_path / "out.mp4"), "--report", str(report), "--json"]
    args += ["--threshold", "0.3", "--seed", "3"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["adaptation"]
    page = report.read_text()
    # It asks for nothing, and runs nothing.
    assert not re.search(r"<script|<link|url\(|@import|https?:|href|srcset", page)
    assert "default-src 'none'" in page
    assert page.count("src=") == page.count('src="data:image/jpeg;base64,') == 12
    for jpeg in re.findall(r'base64,([^"]+)"', page):
        assert Image.open(io.BytesIO(base64.b64decode(jpeg))).size == (64, 48)
    text = unescape(re.sub(r"<[^>]*>", "", page))
    assert "Adaptation to <b> & c.mp4" in text
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(lines_of(svg)["raw"]) == 2
    for told in (
        *("photometric", f"region {facts['channel']}", f"{facts['margin']:+.0%}"),
        *("In all", "learning_rate", "threshold0.3", "seed3"),
    ):
        assert told.lower() in text.lower()
    for when in ("before", "after"):
        (told,) = re.findall(rf">{when} (\d+\.\d+)<", page)
        assert float(told) == pytest.approx(facts[f"loss_{when}"], abs=1e-3)
    before = report.read_bytes()
    again = CliRunner().invoke(cli, [*args[:-5], "--report", str(report)])
    assert again.exit_code == 2
    assert "report.html exists" in again.stderr
    assert report.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--report", "page.html"], "--report is for --adapt"),
        (["--adapt", "--report", "page.mp4"], "page.mp4: a page ends in .html or .htm"),
    ],
)
def test_a_page_that_cannot_be_is_refused_at_once(args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["video", "clip.mp4", *args])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
