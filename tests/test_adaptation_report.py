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
from click.testing import CliRunner
from PIL import Image

from amd_seg.adaptation_report import loss_curve
from amd_seg.cli import cli
from amd_seg.training.adaptation import AdaptationReport
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


def test_a_curve_falls_where_its_values_do_with_dots_at_both_ends() -> None:
    svg = curve(np.exp(-np.arange(50) / 20).tolist())
    for line in lines_of(svg).values():
        assert len(line) == 50
        assert (np.diff(line[:, 0]) > 0).all()
        assert (np.diff(line[:, 1]) > 0).all()  # An SVG's y goes down.
        assert (line >= 0).all()
        assert (line <= (720, 260)).all()
    root = ElementTree.fromstring(curve([0.5] * 10, before=1.0, after=0.0))
    dots = [float(c.get("cy")) for c in root.iter("circle")]
    line = lines_of(ElementTree.tostring(root, encoding="unicode"))["raw"]
    assert sum(dots) / 2 == pytest.approx(line[0, 1], abs=0.2)
    assert [text.text for text in root.iter("text")][-2:] == ["before 1.000", "after 0.000"]


@pytest.mark.parametrize(
    "losses", [[], [0.5], [3.0, 3.0], [0.0, 0.0], [-1e-9, 1e9], [1.0, float("nan"), 2.0]]
)
def test_any_losses_can_be_drawn(losses: list[float]) -> None:
    svg = curve(losses, after=float("inf"))
    assert len(lines_of(svg)["raw"]) == sum(loss == loss for loss in losses)
    assert svg.count("<circle") == 1
    assert not re.search("nan|inf", svg)


def test_an_adaptation_is_told_in_a_page(weights: Path, tmp_path: Path) -> None:
    report, clip = tmp_path / "report.html", write_clip(tmp_path / "<b> & c.mp4", moving_square(20))
    args = ["video", str(clip), "--adapt", "--objective", "photometric", "--steps", "2"]
    args += ["--device", "cpu", "--weights", str(weights), "--threshold", "0.3", "--seed", "3"]
    args += ["--report", str(report), "-o", str(tmp_path / "out.mp4"), "--json"]
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
    # Frames of 0.1 s, spread over the clip.
    times = re.findall(r">(\d\.\d\d) s: ", page)[::2]
    assert times == ["0.00", "0.40", "0.80", "1.00", "1.40", "1.80"]
    text = unescape(re.sub(r"<[^>]*>", "", page))
    assert "Adaptation to <b> & c.mp4" in text
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(lines_of(svg)["raw"]) == 2
    chosen = f"region {facts['channel']}", f"{facts['margin']:+.0%}"
    for told in (*chosen, "photometric", "In all", "learning_rate", "threshold0.3", "seed3"):
        assert told.lower() in text.lower()
    for when in ("before", "after"):
        (told,) = re.findall(rf">{when} (\d+\.\d+)<", page)
        assert float(told) == pytest.approx(facts[f"loss_{when}"], abs=1e-3)
    before = report.read_bytes()
    again = CliRunner().invoke(cli, args[:-3])
    assert again.exit_code == 2
    assert "report.html exists" in again.stderr
    assert report.read_bytes() == before


def test_a_page_that_cannot_be_is_refused_at_once() -> None:
    for args, message in (
        ("--report page.html", "--report is for --adapt"),
        ("--adapt --report page.mp4", "page.mp4: a page ends in .html or .htm"),
    ):
        result = CliRunner().invoke(cli, ["video", "clip.mp4", *args.split()])
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
