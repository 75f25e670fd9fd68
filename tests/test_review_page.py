"""The page of masks: what it holds, and what a person does with it in headless Chromium."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amd_seg import review_page
from amd_seg.errors import InputError
from amd_seg.review_page import ReviewPage, picture_of
from tests.processes import until

SETTINGS = {"weights": "w", "refine": "grabcut"}


def add(page: ReviewPage, name: str, confidence: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    facts = {"width": 160, "height": 120, "confidence": confidence}
    page.add(name, facts, picture_of(pixels, pixels[..., 0] > 90))


def photos_in(path: Path) -> list[str]:
    (text,) = re.findall(r'id="photos">(.*?)</script>', path.read_text(), re.DOTALL)
    photos = json.loads(text)
    assert all(len(photo["picture"]) < 20_000 for photo in photos)
    return [photo["file_name"] for photo in photos]


def test_the_doubtful_come_first_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    killed = ReviewPage(path, SETTINGS)
    add(killed, "a.jpg", 0.9)
    killed.close()
    with pytest.raises(InputError, match="--resume"):
        ReviewPage(path, SETTINGS)
    resumed = ReviewPage(path, SETTINGS, resume=True)
    add(resumed, "</script><b>.jpg", 0.1)
    add(resumed, "c.jpg", 0.5)
    assert resumed.finish() == [path] == list(tmp_path.iterdir())
    assert photos_in(path) == ["</script><b>.jpg", "c.jpg", "a.jpg"]
    assert "http" not in path.read_text().replace("http-equiv", "")
    with pytest.raises(InputError, match="refine grabcut there, none now"):
        ReviewPage(path, {**SETTINGS, "refine": "none"}, resume=True)
    path.write_text("no page")
    with pytest.raises(InputError, match="is no page of this command"):
        ReviewPage(path, SETTINGS, resume=True)


def test_many_photos_are_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_page, "PHOTOS_A_PAGE", 2)
    page = ReviewPage(tmp_path / "report.html", SETTINGS)
    for number in range(5):
        add(page, f"{number}.jpg", number / 10)
    names = [path.name for path in page.finish()]
    assert names == ["report.html", "report-2.html", "report-3.html"]
    assert photos_in(tmp_path / names[1]) == ["2.jpg", "3.jpg"]
    assert '<a href="report-3.html">3</a>' in (tmp_path / "report.html").read_text()
    more = ReviewPage(tmp_path / "report.html", SETTINGS, resume=True)
    assert set(more.done) == {f"{number}.jpg" for number in range(5)}
    more.close(remove=True)
    # Of fewer photos, what was the third page is no page of theirs.
    fewer = ReviewPage(tmp_path / "report.html", SETTINGS, overwrite=True)
    add(fewer, "x.jpg", 0.5)
    fewer.finish()
    again = ReviewPage(tmp_path / "report.html", SETTINGS, resume=True)
    assert set(again.done) == {"x.jpg"}
    again.close()


@pytest.mark.slow
def test_a_person_accepts_and_rejects_by_key(tmp_path: Path, chromium: tuple[Any, Path]) -> None:
    browser, downloads = chromium
    page = ReviewPage(tmp_path / "report.html", SETTINGS)
    names = ["dog0.jpg", "cat1.jpg", "dog2.jpg", "cat3.jpg", "dog4.jpg", "cat5.jpg"]
    for number, name in enumerate(names):
        add(page, name, number / 10)
    page.finish()
    browser.get((tmp_path / "report.html").as_uri())
    body, most = (browser.find_element("css selector", text) for text in ("body", "#most"))

    def figures(kind: str = "") -> list[str]:
        found = browser.find_elements("css selector", f"figure{kind}")
        return [figure.text.splitlines()[0] for figure in found]

    assert figures(".current") == ["dog0.jpg"]
    assert browser.execute_script("return document.querySelector('img').naturalWidth") == 160
    body.send_keys("aarjkr")
    assert (figures(".accepted"), figures(".rejected")) == (names[:2], names[2:4])
    body.send_keys("ku")
    assert figures(".rejected") == names[2:3]
    browser.find_element("id", "save-accepted").click()
    saved = downloads / "accepted.txt"
    until(saved.exists)
    assert saved.read_text().splitlines() == names[:2]
    browser.find_element("id", "name").send_keys("CAT")
    most.clear()
    most.send_keys("0.4")
    assert figures() == ["cat1.jpg", "cat3.jpg"]
    assert browser.find_element("id", "count").text.startswith("2 of 6 photos, 2 accepted")

    # What was decided is there when the page is opened again; a browser may take time to store it.
    def is_kept() -> bool:
        browser.refresh()
        return figures(".accepted") == names[:2]

    until(is_kept)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
