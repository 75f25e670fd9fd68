"""The page of masks: what it holds, and what a person does with it in headless Chromium."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from amd_seg import review_page
from amd_seg.errors import InputError
from amd_seg.review_page import ReviewPage, picture_of

SETTINGS = {"weights": "w", "refine": "colour"}


def a_photo(left: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(left).integers(0, 255, (120, 160, 3), np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[30:90, left : left + 50] = True
    return pixels, mask


def add(page: ReviewPage, name: str, confidence: float) -> None:
    pixels, mask = a_photo(int(100 * confidence))
    facts = {"width": 160, "height": 120, "confidence": confidence}
    page.add(name, facts, picture_of(pixels, mask))


def photos_in(path: Path) -> list[dict[str, Any]]:
    (text,) = re.findall(r'id="photos">(.*?)</script>', path.read_text(), re.DOTALL)
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_the_doubtful_come_first(tmp_path: Path) -> None:
    page = ReviewPage(tmp_path / "report.html", SETTINGS)
    for name, confidence in (("a.jpg", 0.9), ("</script><b>.jpg", 0.1), ("c.jpg", 0.5)):
        add(page, name, confidence)
    assert page.finish() == [tmp_path / "report.html"]
    found = photos_in(tmp_path / "report.html")
    assert [photo["file_name"] for photo in found] == ["</script><b>.jpg", "c.jpg", "a.jpg"]
    assert all(len(photo["picture"]) < 20_000 for photo in found)
    assert "http" not in (tmp_path / "report.html").read_text().replace("http-equiv", "")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_many_photos_are_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_page, "PHOTOS_A_PAGE", 2)
    page = ReviewPage(tmp_path / "report.html", SETTINGS)
    for number in range(5):
        add(page, f"{number}.jpg", number / 10)
    names = [path.name for path in page.finish()]
    assert names == ["report.html", "report-2.html", "report-3.html"]
    assert [photo["file_name"] for photo in photos_in(tmp_path / names[1])] == ["2.jpg", "3.jpg"]
    assert '<a href="report-3.html">3</a>' in (tmp_path / "report.html").read_text()
    more = ReviewPage(tmp_path / "report.html", SETTINGS, resume=True)
    assert set(more.done) == {f"{number}.jpg" for number in range(5)}
    more.close()


def test_a_page_is_gone_on_with_under_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    killed = ReviewPage(path, SETTINGS)
    add(killed, "a.jpg", 0.4)
    killed.close()
    with pytest.raises(InputError, match="--resume"):
        ReviewPage(path, SETTINGS)
    resumed = ReviewPage(path, SETTINGS, resume=True)
    add(resumed, "b.jpg", 0.2)
    resumed.finish()
    assert [photo["file_name"] for photo in photos_in(path)] == ["b.jpg", "a.jpg"]
    with pytest.raises(InputError, match="refine colour there, none now"):
        ReviewPage(path, {**SETTINGS, "refine": "none"}, resume=True)
    path.write_text("no page")
    with pytest.raises(InputError, match="is no page of this command"):
        ReviewPage(path, SETTINGS, resume=True)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium", reason="needs selenium: the extra demo-test")
    binary, driver = which("chromium"), which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver")
    assert selenium
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = binary
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("window-size=1200,800", f"user-data-dir={tmp_path / 'browser'}"),
    ):
        options.add_argument(f"--{flag}")
    downloads = {"download.default_directory": str(tmp_path / "downloads")}
    options.add_experimental_option("prefs", downloads)
    chrome = Chrome(options=options, service=ChromeService(driver))
    yield chrome
    chrome.quit()


def wait_for(happens: Callable[[], bool]) -> None:
    for _ in range(100):
        if happens():
            return
        time.sleep(0.1)
    pytest.fail("It did not happen in ten seconds.")


@pytest.mark.slow
def test_a_person_accepts_and_rejects_by_key(tmp_path: Path, browser: Any) -> None:
    page = ReviewPage(tmp_path / "report.html", SETTINGS)
    for number in range(6):
        add(page, f"photos/{'cat' if number % 2 else 'dog'}{number}.jpg", number / 10)
    page.finish()
    browser.get((tmp_path / "report.html").as_uri())
    body = browser.find_element("tag name", "body")

    def figures(kind: str = "") -> list[str]:
        found = browser.find_elements("css selector", f"figure{kind}")
        return [figure.text.splitlines()[0] for figure in found]

    assert figures(".current") == ["photos/dog0.jpg"]
    assert browser.execute_script("return document.querySelector('img').naturalWidth") == 160
    body.send_keys("aarjkr")
    assert figures(".accepted") == ["photos/dog0.jpg", "photos/cat1.jpg"]
    assert figures(".rejected") == ["photos/dog2.jpg", "photos/cat3.jpg"]
    body.send_keys("ku")
    assert figures(".rejected") == ["photos/dog2.jpg"]
    browser.find_element("id", "save-accepted").click()
    saved = tmp_path / "downloads" / "accepted.txt"
    wait_for(saved.exists)
    assert saved.read_text().splitlines() == ["photos/dog0.jpg", "photos/cat1.jpg"]
    browser.find_element("id", "name").send_keys("CAT")
    assert figures() == ["photos/cat1.jpg", "photos/cat3.jpg", "photos/cat5.jpg"]
    most = browser.find_element("id", "most")
    most.clear()
    most.send_keys("0.4")
    assert figures() == ["photos/cat1.jpg", "photos/cat3.jpg"]
    assert browser.find_element("id", "count").text.startswith("2 of 6 photos, 2 accepted")

    # What was decided is there when the page is opened again.
    # A browser may take some time to store it.
    def is_kept() -> bool:
        browser.refresh()
        return figures(".accepted") == ["photos/dog0.jpg", "photos/cat1.jpg"]

    wait_for(is_kept)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
