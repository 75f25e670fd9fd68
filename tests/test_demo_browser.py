"""The page in a real browser, headless Chromium: what a person does, and what leaves the machine.

AMD_SEG_PHOTO=coffee.png AMD_SEG_SCREENSHOT=docs/demo.jpg pytest tests/test_demo_browser.py
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.clips import moving_patch, write_clip
from tests.processes import ROOT, until
from tests.tiny import tiny_weights

pytest.importorskip("gradio", reason="needs Gradio: the extra demo")

# Writes down every host that the process looks up or connects to.
WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        host = args[1] if event == "socket.connect" else args[0]
        print(host, file=open(sys.argv[0], "a"), flush=True)
sys.argv = sys.argv[1:]
sys.addaudithook(watch)
from amd_seg.cli import main
main()
"""


class Server:
    """`amd-seg demo` in a process of its own, on a port of its own, in a folder of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.temp, self.hosts = folder / "temp", folder / "hosts"
        self.temp.mkdir()
        # Analytics on, as far as the environment decides: the command has to turn them off.
        chosen = {"TMPDIR": str(self.temp), "GRADIO_ANALYTICS_ENABLED": "True"}
        command = [sys.executable, "-c", WATCHED, str(self.hosts), "demo", "--port", "0"]
        with (folder / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--no-browser", "--device", "cpu", *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | chosen,
                cwd=ROOT,
            )
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), (folder / "stderr").read_text()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def files(self) -> list[Path]:
        """What it keeps on the disk, but for the empty marks of Gradio."""
        found = []
        # Unlike rglob, os.walk passes over folders that the server removes meanwhile.
        for folder, _, names in os.walk(self.temp):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    if path.stat().st_size:
                        found.append(path)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        assert list(self.temp.iterdir()) == []


class Browser:
    """One tab of headless Chromium, by the ids of the page."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def find(self, selector: str) -> Any:
        """The first element that is shown, or None."""
        return next(iter(self.driver.find_elements("css selector", selector)), None)

    def open(self, address: str) -> None:
        self.driver.get(address)
        until(lambda: self.find("#file input[type=file]"), "the page")

    def drop(self, path: Path) -> None:
        self.find("#file input[type=file]").send_keys(str(path))

    def picture(self, output: str, *, after: str = "") -> str:
        """Wait for a picture that is loaded, another one than `after`; return its address."""
        script = (
            f"const image = document.querySelector('#{output} img');"
            "return image && image.naturalWidth > 0 && image.src != arguments[0] ? image.src : ''"
        )
        return str(until(lambda: self.driver.execute_script(script, after), f"the {output}"))

    def download(self, button: str, name: str) -> bytes:
        path = self.downloads / name
        path.unlink(missing_ok=True)
        until(lambda: self.find(f"#{button}:enabled"), "the file")
        self.click(f"#{button}")
        until(path.exists, name)
        return path.read_bytes()

    def click(self, selector: str) -> None:
        until(lambda: self.find(selector), selector)
        self.driver.execute_script("arguments[0].click()", self.find(selector))

    def click_in_the_middle(self, output: str) -> str:
        """Click on a picture; return the address of the one that comes of it."""
        from selenium.webdriver.common.action_chains import ActionChains

        before = self.picture(output)
        ActionChains(self.driver).move_to_element(self.find(f"#{output} img")).click().perform()
        return self.picture(output, after=before)

    def leave(self, server: Server) -> None:
        """Check that the tab asked the server alone, and that its files go with it."""
        lines = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        sent = (line for line in lines if line["method"] == "Network.requestWillBeSent")
        urls = (line["params"]["request"]["url"] for line in sent)
        hosts = {"/".join(u.split("/")[:3]) for u in urls if not u.startswith(("data", "blob"))}
        assert hosts == {server.address.rstrip("/")}
        assert server.files
        # A picture that still comes when the page is left is cut off: its file goes with the page.
        are_complete = "return [...document.images].every(image => image.complete)"
        until(lambda: self.driver.execute_script(are_complete), "the last pictures")
        self.driver.get("about:blank")
        until(lambda: not server.files, "the end of its files")
        self.driver.get_log("performance")  # What was asked meanwhile is not the next test's.


@pytest.fixture(scope="module")
def browser(chromium: tuple[Any, Path]) -> Browser:
    return Browser(*chromium)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A real photo: the one asked for, or the cup of README's picture."""
    if asked := os.environ.get("AMD_SEG_PHOTO"):
        return Path(asked).resolve()
    with Image.open(ROOT / "docs" / "example.jpg") as sheet:
        sheet.crop((0, 400, 280, 600)).save(tmp_path / "coffee.png")
    return tmp_path / "coffee.png"


def by_command(photo: Path, target: Path, *flags: str) -> bytes:
    command = [sys.executable, "-m", "amd_seg.cli", "image", photo, *flags, "--device", "cpu"]
    subprocess.run([*command, "-o", target], check=True, capture_output=True, cwd=ROOT)
    return target.read_bytes()


def fetched(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        return bytes(answer.read())


def test_a_cutout_is_that_of_the_command(browser: Browser, photo: Path, tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        browser.open(server.address)
        browser.drop(photo)
        first = browser.picture("cutout")
        mask = browser.picture("mask")
        browser.picture("saliency"), browser.picture("overlay")
        if screenshot := os.environ.get("AMD_SEG_SCREENSHOT"):
            browser.driver.save_screenshot(str(tmp_path / "page.png"))
            Image.open(tmp_path / "page.png").convert("RGB").save(screenshot, quality=80)
        threshold = browser.find("#threshold input[type=range]")
        for _ in range(20):
            threshold.send_keys("\ue014")  # The right arrow: 0.01 each.
        assert float(browser.find("#threshold input[type=number]").get_property("value")) == 0.7
        flags = "--output", "cutout", "--threshold", "0.7"
        expected = by_command(photo, tmp_path / "cutout.png", *flags)
        browser.picture("mask", after=mask)
        browser.picture("cutout", after=first)
        name = f"{photo.stem}.cutout.png"
        # The slider went there by steps, and a picture of one of them may come first.
        until(lambda: browser.download("download-cutout", name) == expected, "that cutout")
        browser.leave(server)
        server.stop()
    # A picture that the next one replaces while it is sent breaks off; the page shows the next one.
    log = browser.driver.get_log("browser")
    severe = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
    assert [text for text in severe if "ERR_CONTENT_LENGTH_MISMATCH" not in text] == []


@pytest.mark.parametrize(("kind", "flag"), [("is object", "--include"), ("is not", "--exclude")])
def test_a_click_puts_the_mask_right_and_is_undone(
    browser: Browser, photo: Path, tmp_path: Path, kind: str, flag: str
) -> None:
    with Server(tmp_path) as server:
        browser.open(server.address)
        browser.drop(photo)
        before = fetched(browser.picture("mask"))
        browser.click(f"#kind input[value='{kind}']")
        second = browser.click_in_the_middle("overlay")
        clicked = fetched(browser.picture("mask"))
        with Image.open(photo) as image:
            middle = ",".join(str(side // 2) for side in image.size)
        expected = by_command(photo, tmp_path / "mask.png", flag, middle)
        with Image.open(io.BytesIO(expected)) as wanted, Image.open(io.BytesIO(clicked)) as mask:
            difference = ImageChops.difference(wanted, mask).convert("L")
            # The browser shows the photo larger or smaller: the click may be a pixel beside.
            assert ImageStat.Stat(difference).mean[0] < 0.02 * 255
        browser.click("#undo")
        browser.picture("overlay", after=second)
        assert fetched(browser.picture("mask")) == before
        browser.leave(server)


def test_a_clip_is_adapted_to_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path / "weights", seed=1, input_size=96, threshold=0.3)
    frames, _ = moving_patch(10, height=96, width=128, side=40)
    clip = write_clip(tmp_path / "patch.mp4", list(frames))
    (tmp_path / "text.jpg").write_text("no picture " * 10)
    with Server(tmp_path, "--weights", str(weights)) as server:
        browser.open(server.address)
        browser.drop(tmp_path / "text.jpg")
        told = until(lambda: getattr(browser.find(".toast-body"), "text", ""), "the error")
        assert "Cannot read text.jpg: it is no image" in told
        browser.open(server.address)
        browser.drop(clip)
        browser.click_in_the_middle("overlay")
        with Image.open(io.BytesIO(fetched(browser.picture("mask")))) as mask:
            assert mask.convert("L").getpixel((64, 48)) == 255
        before = browser.picture("saliency")
        browser.click("#adapt")
        until(lambda: browser.find("#learned svg.curve"), "the curve of the loss")
        # Gradio's own would put a picture on the Hub.
        assert browser.find("[aria-label*=hare], [title*=hare]") is None
        assert browser.picture("saliency", after=before)
        page = browser.download("report", "patch.report.html").decode()
        assert "Adaptation to patch.mp4" in page
        browser.click("#write")
        video = until(lambda: browser.find("#video video"), "the clip")
        assert fetched(until(lambda: video.get_attribute("src"), "its address"))
        browser.leave(server)


def test_nothing_leaves_the_machine_and_nothing_comes_in(weights: Path, tmp_path: Path) -> None:
    with Server(tmp_path, "--weights", str(weights)) as server:
        with urllib.request.urlopen(server.address) as answer:
            page, headers = answer.read().decode(), answer.headers
        assert "fonts.googleapis.com" not in page
        assert "cdn" not in page.lower()
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        config = json.loads(fetched(f"{server.address}config"))
        assert (config["analytics_enabled"], config["max_file_size"]) == (False, 100_000_000)
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        too_large = head + bytes(100_000_001) + b"\r\n--b--\r\n"
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        for path, data, sent, status in (
            ("", None, {"Host": "evil.example"}, 400),
            ("gradio_api/file=http://127.0.0.1:9/x", None, {}, 403),
            (f"gradio_api/file={ROOT / 'pyproject.toml'}", None, {}, 403),
            ("gradio_api/upload", too_large, form, 413),
        ):
            request = urllib.request.Request(server.address + path, data, sent)
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request)
            assert error.value.code == status
            error.value.close()
        time.sleep(2)  # Telemetry would go out by a thread of its own.
        server.stop()
    with suppress(FileNotFoundError):
        hosts = set(server.hosts.read_text().splitlines())
        assert all("127.0.0.1" in host or host == "localhost" for host in hosts), hosts
