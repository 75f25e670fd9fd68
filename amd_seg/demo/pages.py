"""The open pages, each with its session; what is done for one page is done one after the other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amd_seg.demo.session import Session
from amd_seg.segmenter import Segmenter


class Pages:
    """Sessions by the names that the server gives to open pages.

    Args:
        segmenter: what all pages use.
        folder: each page's own folder is made in it.

    Attributes:
        segmenter: as given.
    """

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        self.segmenter = segmenter
        self._folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, tuple[threading.Lock, Session]] = {}
        self._count = 0

    @contextmanager
    def session(self, name: str) -> Iterator[Session]:
        """Give the session of a page, to one thread at a time."""
        with self._lock:
            if name not in self._open:
                self._count += 1
                session = Session(self.segmenter, self._folder / f"page-{self._count}")
                self._open[name] = threading.Lock(), session
            own, session = self._open[name]
        with own:
            yield session

    def close(self, name: str) -> None:
        """Close a page's session, once the step or the frame that is under way is done."""
        with self._lock:
            own, session = self._open.pop(name, (None, None))
        if own is not None and session is not None:
            session.stop()
            with own:
                session.close()

    def close_all(self) -> None:
        """Close every page's session."""
        for name in list(self._open):
            self.close(name)
