"""Worker processes that never outlive the command that started them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.synchronize import Event
from threading import Thread

from amd_seg.errors import DeviceError


def start_worker(number: int = 0, has_begun: Event | None = None) -> None:
    """Begin a worker process: its parent decides about Ctrl-C, and it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    if has_begun is not None:
        has_begun.set()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    # A pipe that the system closes, however the parent ends. Linux could send a signal instead, but
    # it does so at the end of a thread and knows nothing of a fork server.
    parent.join()
    os._exit(1)


@contextmanager
def worker_pool(workers: int, *, job: str) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes; on an error or a signal they end at once, with what they do.

    Raises:
        DeviceError: one of them was killed, or could not begin; `job` says what they do.
    """
    # Forked processes would inherit the locks of torch's threads.
    context, others = get_context("spawn"), set(active_children())
    has_begun = context.Event()
    pool = ProcessPoolExecutor(workers, context, start_worker, (0, has_begun))
    try:
        yield pool
    except BaseException as error:
        for process in set(active_children()) - others:
            process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        fault = (
            f"One of {workers} processes that {job} was killed by the system, as happens "
            "where memory runs out. Free some memory, or use fewer processes."
            if has_begun.is_set()
            else f"The processes that {job} could not begin. Each imports the script that was run: "
            'put the call that starts them below `if __name__ == "__main__":` in a file.'
        )
        raise DeviceError(fault) from error
    finally:
        pool.shutdown(cancel_futures=True)
