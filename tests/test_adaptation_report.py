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
from PIL import Image

from amd_seg.adaptation_report import loss_curve
from amd_seg.training.adaptation import AdaptationReport
from tests.clips import moving_square, write_clip
from tests.processes import good, runner


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
    args = [clip, "--adapt", "--objective", "photometric", "--steps", 2, "--threshold", 0.3]
    args += ["--seed", 3, "--report", report, "--json"]
    run = runner("video", weights)
    result = good(run(*args, "-o", tmp_path / "out.mp4"))
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
    again = run(*args)
    assert (again.exit_code, "report.html exists" in again.stderr) == (2, True)
    assert report.read_bytes() == before
