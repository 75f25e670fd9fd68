"""The server of the page: this machine only, nothing asked of any other, nothing left behind."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_seg.demo.limits import MAX_BYTES
from amd_seg.demo.pages import Pages
from amd_seg.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amd_seg.segmenter import Segmenter

HOST = "127.0.0.1"

# A browser asks no other host for anything, whatever the page's engine may hold in store.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    # Or the browser would keep what is removed here.
    (b"cache-control", b"no-store"),
)

# Of Gradio, read when it is imported or when it serves.
_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def require_gradio() -> None:
    """Say how to get Gradio where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("gradio") is None:
        raise ConfigError(
            "The page needs Gradio, which is not installed. "
            'Install it with: pip install "amd-seg[demo]"'
        )


def listen(port: int) -> socket.socket:
    """Take a port of this machine, for this machine only; 0 takes any free one.

    Raises:
        InputError: it is in use, or not to be had.
    """
    taken = socket.socket()
    # Or a port stays in use for a minute after the last page.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
    except OSError as cause:
        taken.close()
        is_used = cause.errno == errno.EADDRINUSE
        reason = "in use" if is_used else f"not to be had ({cause.strerror})"
        raise InputError(
            f"Port {port} is {reason}. Give another one with --port; 0 takes any that is free."
        ) from cause
    taken.listen()
    return taken


def serve(segmenter: "Segmenter", taken: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve the page until SIGINT or SIGTERM; files of all pages are removed then.

    Args:
        segmenter: what the page shows.
        taken: from `listen`; it is closed at the end.
        on_ready: is told the address once a browser can open it.

    Raises:
        ConfigError: Gradio is not installed.
    """
    require_gradio()
    with taken, tempfile.TemporaryDirectory(prefix="amd-seg-demo-") as folder:
        places = Path(folder) / "pages", Path(folder) / "uploads"
        pages = Pages(segmenter, places[0])
        with _environment({**_SETTINGS, "GRADIO_TEMP_DIR": str(places[1])}):
            import uvicorn

            app = _app(pages, *places)
            config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=3)
            on_ready(f"http://{HOST}:{taken.getsockname()[1]}/")
            try:
                uvicorn.Server(config).run(sockets=[taken])
            finally:
                pages.close_all()


def _app(pages: Pages, folder: Path, uploads: Path) -> Any:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from amd_seg.demo.page import STYLE, build

    # What is written there is served from there: a copy would outlive its page.
    gr.set_static_paths(folder)
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        build(pages),
        "/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        max_file_size=MAX_BYTES,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
    )
    app.add_middleware(_Guard, uploads=uploads)
    # Another site's page may reach a port of this machine under a name of its own.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return app


class _Guard:
    """Stands before the engine: headers for every answer, no fetching, no rest of an upload.

    Args:
        app: the engine.
        uploads: the folder that it writes uploads to.
    """

    def __init__(self, app: Any, uploads: Path) -> None:
        self._app = app
        self._uploads = uploads
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in _HEADERS}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        path = scope.get("path", "")
        if "file=http" in path:  # The engine would fetch it for the browser.
            start = {"type": "http.response.start", "status": 403, "headers": []}
            await with_headers(start)
            await send({"type": "http.response.body", "body": b"Not a file of this page."})
        elif path.endswith("/upload"):
            await self._upload(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    async def _upload(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import ClientDisconnect

        self._under_way += 1
        try:
            # Nobody waits for an answer to what was broken off.
            with suppress(ClientDisconnect):
                await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
            if not self._under_way:
                # What is whole has a folder of its own by now.
                for path in self._uploads.glob("*"):
                    if path.is_file():
                        path.unlink(missing_ok=True)


@contextmanager
def _environment(settings: dict[str, str]) -> "Iterator[None]":
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            with suppress(KeyError):
                del os.environ[name]
            if value is not None:
                os.environ[name] = value
