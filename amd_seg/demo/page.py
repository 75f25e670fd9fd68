"""The page: what is on it, and what happens when something is dropped, moved or pressed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from amd_seg.adaptation_report import CURVE_STYLE
from amd_seg.choices import DEFAULT_REFINEMENT, OUTPUTS, REFINEMENTS
from amd_seg.demo.limits import MAX_BYTES, MAX_PHOTO_PIXELS, MAX_SECONDS
from amd_seg.demo.pages import Pages
from amd_seg.demo.session import Controls, Session
from amd_seg.errors import AmdSegError
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.loop import StepReport

SHOWN = ("saliency", "mask", "regions", "cutout")
"""Outputs with a picture on the page; all of them can be downloaded."""

# What was dropped is taken out of the engine's hands, so its link to it is of no use.
STYLE = f"""
#file .download {{ display: none; }}
.transparent img {{ background: repeating-conic-gradient(#bbb 0% 25%, #eee 0% 50%) 0 / 20px 20px; }}
{CURVE_STYLE}"""

_ABOUT = f"""# The object in a photo or a clip
Found by a network that never saw a label. Everything is computed on this machine: no file leaves
it, and what you drop here is removed when you close the page. Up to {MAX_BYTES / 1e6:.0f} MB,
{MAX_PHOTO_PIXELS / 1e6:.0f} million pixels, {MAX_SECONDS:.0f} seconds."""

# Where a page's files lie, which is of no use to whom dropped them.
_PLACE = re.compile(r"\S*[/\\]page-\d+[/\\]\d+[/\\]")

# All work shares the cores: one thing at a time, whoever asked.
_QUEUE: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}


def build(pages: Pages) -> gr.Blocks:
    """Return the page, bound to the sessions of those who open it."""
    with gr.Blocks(title="amd-seg", analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown(_ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="A photo or a short clip", height=140, elem_id="file")
                controls = _controls(pages)
                facts = gr.Markdown(elem_id="facts")
            with gr.Column(scale=3):
                pictures = _pictures()
                downloads = _downloads()
        with gr.Column(visible=False, elem_id="clip") as clip:
            time = gr.Slider(0, 1, 0, step=0.01, label="Frame, in seconds", elem_id="time")
            adapting = _adapting()
            writing = _writing()
        handlers = _Handlers(pages)
        inputs = [*controls, time]
        size = controls[-1]
        shown = [facts, *pictures, *downloads]
        opened = file.upload(
            handlers.open, [file], [clip, time, size, *adapting.outputs, writing.video], **_QUEUE
        )
        opened.success(handlers.show, inputs, shown, **_QUEUE)
        for control in inputs:
            control.change(handlers.show, inputs, shown, trigger_mode="always_last", **_QUEUE)
        adapted = adapting.button.click(handlers.adapt, inputs, [size, *adapting.outputs], **_QUEUE)
        adapted.success(handlers.show, inputs, shown, **_QUEUE)
        writing.button.click(handlers.write, [writing.output, *inputs], writing.video, **_QUEUE)
        blocks.unload(handlers.close)
    return blocks


def _controls(pages: Pages) -> list[Any]:
    config = pages.segmenter.config
    return [
        gr.Slider(0.02, 0.98, config.threshold, step=0.01, label="Threshold", elem_id="threshold"),
        gr.Radio(list(REFINEMENTS), value=DEFAULT_REFINEMENT, label="Edges", elem_id="refine"),
        gr.Slider(
            16, 768, config.input_size, step=8, label="Size that the network sees", elem_id="size"
        ),
    ]


def _pictures() -> list[Any]:
    made = []
    for pair in (SHOWN[:2], SHOWN[2:]):
        with gr.Row():
            made += [
                gr.Image(
                    label=output.capitalize(),
                    type="filepath",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=300,
                    elem_id=output,
                    elem_classes="transparent" if output == "cutout" else None,
                )
                for output in pair
            ]
    return made


def _downloads() -> list[Any]:
    with gr.Row():
        return [
            gr.DownloadButton(
                f"Download {output}", size="sm", interactive=False, elem_id=f"download-{output}"
            )
            for output in OUTPUTS
        ]


class _Adapting(NamedTuple):
    """The part of the page that lets the weights learn from the clip."""

    button: Any
    outputs: list[Any]
    """What was learned, before, after, and the report."""


def _adapting() -> _Adapting:
    button = gr.Button("Adapt to this clip", variant="primary", elem_id="adapt")
    learned = gr.HTML(elem_id="learned")
    with gr.Row():
        # Without Gradio's own buttons, of which one would share the picture on the Hub.
        pair = [
            gr.Image(
                label=label,
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id=label.lower(),
            )
            for label in ("Before", "After")
        ]
    page = gr.DownloadButton("Download the report", visible=False, elem_id="report")
    return _Adapting(button, [learned, *pair, page])


class _Writing(NamedTuple):
    """The part of the page that writes the clip's twin."""

    output: Any
    button: Any
    video: Any


def _writing() -> _Writing:
    with gr.Row():
        output = gr.Dropdown(list(OUTPUTS), value="overlay", label="Output", elem_id="output")
        button = gr.Button("Write the whole clip", elem_id="write")
    video = gr.Video(
        visible=False, label="The clip", height=400, buttons=["download"], elem_id="video"
    )
    return _Writing(output, button, video)


class _Handlers:
    """What the page's events call, each with the page that it came from."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def open(self, path: str, request: gr.Request) -> list[Any]:
        with self._session(request) as session:
            session.open(Path(path))
            hidden = [gr.update(value="")] + [gr.update(visible=False, value=None)] * 4
            seconds = gr.update(value=0, maximum=max(session.last_time, 0.01))
            size = self._pages.segmenter.config.input_size
            return [gr.update(visible=session.clip is not None), seconds, size, *hidden]

    def show(
        self, threshold: float, refine: str, size: int, time: float, request: gr.Request
    ) -> list[Any]:
        with self._session(request) as session:
            if session.source is None:  # A control was moved before anything was dropped.
                return [gr.skip()] * (1 + len(SHOWN) + len(OUTPUTS))
            shown = session.show(Controls(threshold, refine, size, time))
        files = {output: str(path) for output, path in shown.pictures.items()}
        facts = (
            f"{shown.facts['mask_share']:.0%} of the picture is object, "
            f"confidence {shown.facts['confidence']:.2f}."
        )
        buttons = [gr.update(value=files[output], interactive=True) for output in OUTPUTS]
        return [facts, *(files[output] for output in SHOWN), *buttons]

    def adapt(
        self,
        threshold: float,
        refine: str,
        size: int,
        time: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 -- Gradio finds it by this default.
    ) -> list[Any]:
        def on_step(step: StepReport) -> None:
            progress(step.done, desc=f"Step {step.step}, loss {step.parts['loss']:.3f}")

        progress(0, desc="Finding what moves")
        with self._session(request) as session:
            learned = session.adapt(
                Controls(threshold, refine, size, time), AdaptationConfig(), on_step
            )
        pair = [gr.update(visible=True, value=str(p)) for p in (learned.before, learned.after)]
        page = gr.update(visible=True, value=str(learned.page))
        return [learned.size, f"<p>{escape(learned.verdict)}</p>{learned.curve}", *pair, page]

    def write(
        self,
        output: str,
        threshold: float,
        refine: str,
        size: int,
        time: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Any:
        def on_frame(done: int, total: int | None) -> None:
            progress((done, total), unit="frames", desc="Writing")

        with self._session(request) as session:
            path = session.write(output, Controls(threshold, refine, size, time), on_frame)
        return gr.update(visible=True, value=str(path))

    def close(self, request: gr.Request) -> None:
        self._pages.close(_name(request))

    @contextmanager
    def _session(self, request: gr.Request) -> Iterator[Session]:
        """Give a page its session, and show it errors in the words of the library."""
        try:
            with self._pages.session(_name(request)) as session:
                yield session
        except AmdSegError as error:
            raise gr.Error(_PLACE.sub("", str(error)), print_exception=False) from error


def _name(request: gr.Request) -> str:
    return str(request.session_hash)
