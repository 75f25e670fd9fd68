"""`amd-seg demo`: a page on this machine to try the network on a photo or a short clip."""

import os
import re
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amd_seg.adaptation_report import CURVE_STYLE, loss_curve, verdict, write_adaptation_page
from amd_seg.choices import DEFAULT_REFINEMENT, OUTPUTS, REFINEMENTS
from amd_seg.errors import AmdSegError, ConfigError, InputError, MediaError
from amd_seg.media.files import IMAGE_SUFFIXES
from amd_seg.media.images import Photo, read_image
from amd_seg.media.video import FrameReader, count_frames, open_video
from amd_seg.model.config import WeightsConfig
from amd_seg.refine import Point, resize_pixels, size_within
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.loop import OnStep, StepReport, StopTraining
from amd_seg.video_segmenter import OnFrame, VideoSegmenter

HOST = "127.0.0.1"

MAX_BYTES = 100_000_000  # of an upload
MAX_PHOTO_PIXELS = 40_000_000
MAX_FRAME_PIXELS = 9_000_000  # of a clip: 4K
MAX_SECONDS = 30.0  # of a clip

SHOWN = ("overlay", "saliency", "mask", "cutout")  # on the page; all outputs can be downloaded
SHOWN_EDGE = 1024  # longest edge of these pictures: a click on a large photo is answered as fast


class Page:
    """One open page: its file, what the network said of it, and a folder that goes with it."""

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._count = 0
        self._saved: dict[tuple[str, ...], Path] = {}
        self._video = VideoSegmenter(segmenter)
        self.source: Path | None = None
        self.clip: FrameReader | None = None
        # Of each frame, by its time: points, and whether they are of the object.
        self.clicks = defaultdict[float, list[tuple[bool, Point]]](list)
        self.reduction = 1.0  # pixels of the photo for each one of the picture that was shown last
        self._seen: tuple[tuple[int, float], Segmentation] | None = None

    def open(self, upload: Path) -> float:
        """Take a photo or a clip, in place of the one before; give a clip's last time, or 0."""
        self.close()
        self._folder.mkdir()
        self._video.reset()
        self.source = self.clip = self._seen = None
        self.clicks.clear()
        source = self._new_file(upload.name)
        shutil.move(upload, source)
        ending = source.suffix.lower()
        has_frames = ending in (".gif", ".apng", ".webp") and count_frames(source) != 1
        if ending in IMAGE_SUFFIXES and not has_frames:
            read_image(source, max_pixels=MAX_PHOTO_PIXELS)
            self.source = source
            return 0.0
        clip = open_video(source, end=MAX_SECONDS)
        last = _last_time(clip)
        self.source, self.clip = source, clip
        return last

    def show(self, threshold: float, refine: str, size: int, time: float) -> Segmentation:
        """Segment the photo, or the clip's frame at a time; only another one runs the network."""
        if self._seen is None or self._seen[0] != (size, time):
            self._seen = (size, time), self._video.segmenter(self._photo_at(time), size=size)
        seen = replace(self._seen[1], refine=refine, threshold_rule=threshold)
        clicks = self.clicks[time]
        if not clicks:
            return seen
        include, exclude = ([at for kind, at in clicks if kind is k] for k in (True, False))
        return seen.clicked(include, exclude)

    def _photo_at(self, time: float) -> Photo:
        """Read the photo, or the frame that is shown at or after a time, in seconds."""
        assert self.source is not None
        if self.clip is None:
            return read_image(self.source, max_pixels=MAX_PHOTO_PIXELS)
        for start in (time, 0.0):  # No frame may follow so late.
            for frame in open_video(self.source, start=start, end=MAX_SECONDS):
                return Photo(frame.pixels, None, f"{self.source.name} at {frame.time:.2f} s")
        raise MediaError(f"Cannot read {self.source.name}: it has no frame. Give an intact file.")

    def reduced(self, seen: Segmentation) -> Segmentation:
        """Give the same object in a photo that is no larger than the page shows."""
        pixels = seen.photo.pixels
        height, width = size_within((SHOWN_EDGE, SHOWN_EDGE), pixels)
        self.reduction = factor = pixels.shape[1] / width
        if factor == 1:
            return seen
        small = resize_pixels(pixels, (height, width)).permute(1, 2, 0).contiguous().numpy()
        both = seen.include, seen.exclude
        clicks = [[(x / factor, y / factor) for x, y in points] for points in both]
        return replace(seen, photo=replace(seen.photo, decoded=small)).clicked(*clicks)

    def save(self, seen: Segmentation, outputs: tuple[str, ...] = OUTPUTS) -> dict[str, Path]:
        """Write outputs as `amd-seg image` does, in place of those before."""
        assert self.source is not None
        if outputs in self._saved:
            shutil.rmtree(self._saved[outputs], ignore_errors=True)
        first = self._new_file(self.source.stem)
        self._saved[outputs] = folder = first.parent
        return {o: seen.save(folder / f"{first.name}.{o}.png", o) for o in outputs}

    def adapt(
        self, config: AdaptationConfig, on_step: OnStep, **call: Any
    ) -> tuple[str, Path, int]:
        """Let the weights learn from the clip; they are used until another file comes.

        Give what came of it, as HTML; the page about it; the size that the new weights see best.
        """
        if self.clip is None:  # What was dropped last could not be read.
            raise InputError("There is no clip. Drop one first.")
        self._video.reset()
        self._seen = None
        released = self._video.segmenter

        def after_step(step: StepReport) -> None:
            on_step(step)
            if not self._folder.exists():
                raise StopTraining("the page was closed")

        short_edge = config.clip_size(released.config)
        small = open_video(self.clip.source, end=MAX_SECONDS, short_edge=short_edge)
        report = self._video.adapt(small, config, on_step=after_step)
        adapted = self._video.segmenter
        target = self._new_file(f"{Path(self.clip.source).stem}.report.html")
        both: dict[str, Any] = {"released": released, "adapted": adapted}
        page = write_adaptation_page(target, self.clip, report, config, **both, **call)
        told = f"<p>{escape(verdict(report))}</p>{loss_curve(report)}"
        return told, page, adapted.config.input_size

    @property
    def refinement(self) -> str:
        """How the masks of the clip are refined by default, with the weights in use."""
        return self._video.refinement

    def write(self, output: str, on_frame: OnFrame, **call: Any) -> Path:
        """Write the whole clip, by the weights in use."""
        if self.clip is None:  # What was dropped last could not be read.
            raise InputError("There is no clip. Drop one first.")
        ending = ".webm" if output == "cutout" else ".mp4"
        target = self._new_file(f"{Path(self.clip.source).stem}.{output}{ending}")
        self._video.write(self.clip, target, output=output, on_frame=on_frame, **call)
        return target

    def close(self) -> None:
        """Remove every file of the page."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _new_file(self, name: str) -> Path:
        """Return a place for a file of this name that no browser has seen before."""
        if not self._folder.exists():
            raise InputError("The page was closed.")
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder / name


def _last_time(clip: FrameReader) -> float:
    """Refuse a clip that is too long or too large; else tell about when its last frame is shown."""
    if clip.duration is not None:
        seconds, last = clip.duration, clip.duration - 1 / float(clip.frame_rate or 1)
    else:
        # Animated images and recordings of browsers do not tell: small, frames cost little.
        seconds = last = 0.0
        for frame in open_video(clip.source, short_edge=16):
            seconds = last = frame.time
            if last > MAX_SECONDS:
                break
    if seconds > MAX_SECONDS or clip.width * clip.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"Cannot take {clip.source}: this page takes clips of up to {MAX_SECONDS:.0f} s and "
            f"{MAX_FRAME_PIXELS / 1e6:.0f} million pixels a frame. The command amd-seg video takes "
            "any clip."
        )
    return max(0.0, last)


# The page in the browser


def build(segmenter: Segmenter, folder: Path) -> Any:
    """Return the page; each browser tab that opens it has a `Page` with a folder of its own."""
    import gradio as gr

    pages: dict[str, Page] = defaultdict(
        lambda: Page(segmenter, folder / f"page-{os.urandom(8).hex()}")
    )

    @contextmanager
    def page_of(request: gr.Request) -> Iterator[Page]:
        try:
            yield pages[str(request.session_hash)]
        except AmdSegError as error:
            # Where a page's files lie is of no use to whom dropped them.
            text = re.sub(r"\S*[/\\]page-\w+[/\\]\d+[/\\]", "", str(error))
            raise gr.Error(text, print_exception=False) from error

    def close(request: gr.Request) -> None:
        if page := pages.pop(str(request.session_hash), None):
            page.close()

    def open_file(path: str, request: gr.Request) -> list[Any]:
        with page_of(request) as page:
            last = page.open(Path(path))
        clip = gr.update(visible=page.clip is not None)
        time = gr.update(value=0, maximum=max(last, 0.01))
        hidden = gr.update(visible=False, value=None)
        return [clip, time, segmenter.config.input_size, "", hidden, hidden]

    def show(request: gr.Request, *controls: Any) -> list[Any]:
        with page_of(request) as page:
            if page.source is None:  # A control was moved before anything was dropped.
                return [gr.skip()] * (1 + len(SHOWN) + len(OUTPUTS))
            seen = page.reduced(page.show(*controls))
            pictures = [str(path) for path in page.save(seen, SHOWN).values()]
        share, confidence = seen.facts["mask_share"], seen.facts["confidence"]
        facts = f"{share:.0%} of the picture is object, confidence {confidence:.2f}."
        return [facts, *pictures, *[gr.update(interactive=False)] * len(OUTPUTS)]

    def save(request: gr.Request, *controls: Any) -> list[Any]:
        with page_of(request) as page:
            if page.source is None:
                return [gr.skip()] * len(OUTPUTS)
            files = page.save(page.show(*controls))
        return [gr.update(value=str(files[output]), interactive=True) for output in OUTPUTS]

    def click(kind: str, time: float, event: gr.SelectData, request: gr.Request) -> None:
        with page_of(request) as page:
            x, y = (page.reduction * place for place in event.index)
            page.clicks[time].append((kind == "is object", (x, y)))

    def undo(time: float, request: gr.Request) -> None:
        with page_of(request) as page:
            del page.clicks[time][-1:]

    bar = gr.Progress()  # Gradio gives its like to what has it as a default.

    def adapt(request: gr.Request, progress: Any = bar, *controls: Any) -> list[Any]:
        def on_step(step: StepReport) -> None:
            progress(step.done, desc=f"Step {step.step}, loss {step.parts['loss']:.3f}")

        progress(0, desc="Finding what moves")
        call = dict(zip(("threshold", "refine"), controls, strict=True))
        with page_of(request) as page:
            told, report, size = page.adapt(AdaptationConfig(), on_step, **call)
            refinement = page.refinement
        return [refinement, size, told, gr.update(visible=True, value=str(report))]

    def write(output: str, request: gr.Request, progress: Any = bar, *controls: Any) -> Any:
        def on_frame(done: int, total: int | None) -> None:
            progress((done, total), unit="frames", desc="Writing")

        call = dict(zip(("threshold", "refine", "size"), controls, strict=True))
        with page_of(request) as page:
            path = page.write(output, on_frame, **call)
        return gr.update(visible=True, value=str(path))

    with gr.Blocks(title="amd-seg", analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        has = _lay_out(segmenter.config)
        controls = [has.threshold, has.refine, has.size, has.time]
        shown = [has.facts, *has.pictures, *has.buttons]
        learned = [has.learned, has.report]
        # All work shares the cores: one thing at a time, whoever asked.
        queue: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
        # Files of the photo's size take longer than the pictures: they come after them.
        files: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 1}
        opened = [has.clip, has.time, has.size, *learned, has.video]
        for event in (
            has.file.upload(open_file, has.file, opened, **queue),
            has.pictures[0].select(click, [has.kind, has.time], **queue),
            has.undo.click(undo, has.time, **queue),
            has.learn.click(adapt, controls[:2], [has.refine, has.size, *learned], **queue),
        ):
            seen = event.success(show, controls, shown, **queue)
            seen.success(save, controls, has.buttons, **files)
        for control in controls:
            changed = control.change(show, controls, shown, trigger_mode="always_last", **queue)
            changed.success(save, controls, has.buttons, **files)
        has.write.click(write, [has.output, *controls[:3]], has.video, **queue)
        blocks.unload(close)
    return blocks


def _lay_out(config: WeightsConfig) -> SimpleNamespace:
    """Place all that the page shows, and return what of it is asked or changed."""
    import gradio as gr

    has = SimpleNamespace()
    gr.Markdown(
        "# The object in a photo or a clip\nFound by a network that never saw a label. No file "
        "leaves this machine, and what you drop is removed when you close the page. Up to "
        f"{MAX_BYTES / 1e6:.0f} MB, {MAX_PHOTO_PIXELS / 1e6:.0f} million pixels, "
        f"{MAX_SECONDS:.0f} seconds."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            has.file = gr.File(label="A photo or a short clip", height=140, elem_id="file")
            has.threshold = gr.Slider(
                0.02, 0.98, config.threshold, step=0.01, label="Threshold", elem_id="threshold"
            )
            has.refine = gr.Radio(list(REFINEMENTS), value=DEFAULT_REFINEMENT, label="Edges")
            label = "Size that the network sees"
            has.size = gr.Slider(16, 768, config.input_size, step=8, label=label)
            kinds, label = ["is object", "is not"], "A click on the overlay"
            has.kind = gr.Radio(kinds, value=kinds[0], label=label, elem_id="kind")
            has.undo = gr.Button("Undo the last click", elem_id="undo")
            has.facts = gr.Markdown(elem_id="facts")
        with gr.Column(scale=3):
            has.pictures = []
            for pair in (SHOWN[:2], SHOWN[2:]):
                with gr.Row():
                    has.pictures += [
                        gr.Image(
                            label=output.capitalize(),
                            type="filepath",
                            interactive=False,
                            buttons=["fullscreen"],  # Gradio's own would share it on the Hub.
                            height=300,
                            elem_id=output,
                            elem_classes="transparent" if output == "cutout" else None,
                        )
                        for output in pair
                    ]
            with gr.Row():
                has.buttons = [
                    gr.DownloadButton(f"Download {o}", interactive=False, elem_id=f"download-{o}")
                    for o in OUTPUTS
                ]
    with gr.Column(visible=False, elem_id="clip") as has.clip:
        has.time = gr.Slider(0, 1, 0, step=0.01, label="Frame, in seconds", elem_id="time")
        has.learn = gr.Button("Adapt to this clip", variant="primary", elem_id="adapt")
        has.learned = gr.HTML(elem_id="learned")
        has.report = gr.DownloadButton("Download the report", visible=False, elem_id="report")
        with gr.Row():
            has.output = gr.Dropdown(list(OUTPUTS), value="overlay", label="Output")
            has.write = gr.Button("Write the whole clip", elem_id="write")
        has.video = gr.Video(visible=False, label="The clip", buttons=["download"], elem_id="video")
    return has


# The server: this machine only, nothing asked of any other, nothing left behind


def require_gradio() -> None:
    """Raise a ConfigError that says how to get Gradio, where it is not installed."""
    if find_spec("gradio") is None:
        raise ConfigError(
            "The page needs Gradio, which is not installed. "
            'Install it with: pip install "amd-seg[demo]"'
        )


def listen(port: int) -> socket.socket:
    """Take a port of this machine, for this machine only; 0 takes any free one."""
    try:
        return socket.create_server((HOST, port))
    except OSError as cause:
        raise InputError(
            f"Port {port} cannot be taken: {os.strerror(cause.errno or 0)}. Give another one with "
            "--port; 0 takes any that is free."
        ) from cause


# A browser may ask no other host, and keep nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' "
    "blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(segmenter: Segmenter, taken: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve the page on a port from `listen` until SIGINT or SIGTERM; its files are removed then.

    `on_ready` is told the address once a browser can open it.
    """
    with taken, tempfile.TemporaryDirectory(prefix="amd-seg-demo-") as name:
        # Gradio reads them when it is imported, or when it serves.
        for key in ("ANALYTICS_ENABLED", "RUN_HISTORY", "MCP_SERVER", "SSR_MODE"):
            os.environ[f"GRADIO_{key}"] = "False"
        os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": f"{name}/uploads"}
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import PlainTextResponse

        folder = Path(name, "pages")
        # What is written there is served from there: a copy would outlive its page.
        gr.set_static_paths(folder)
        app = FastAPI(openapi_url=None)
        checks = "background: repeating-conic-gradient(#bbb 0% 25%, #eee 0% 50%) 0 / 20px 20px"
        gr.mount_gradio_app(
            app,
            build(segmenter, folder),
            "/",
            server_name=HOST,
            footer_links=[],
            run_history=False,
            max_file_size=MAX_BYTES,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            # What was dropped is taken out of Gradio's hands: its link to it is of no use.
            css=f"#file .download {{ display: none; }} .transparent img {{ {checks}; }}"
            + CURVE_STYLE,
        )

        async def guard(request: Any, answer: Any) -> Any:
            if "file=http" in request.url.path:  # Gradio would fetch it for the browser.
                response = PlainTextResponse("Not a file of this page.", 403)
            else:
                response = await answer(request)
            response.headers.update(_HEADERS)
            return response

        app.middleware("http")(guard)
        # Another site's page may reach a port of this machine under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=3)
        on_ready(f"http://{HOST}:{taken.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[taken])
