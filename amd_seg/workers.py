"""Worker processes that never outlive the command that started them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread

from amd_seg.errors import DeviceError


def start_worker(number: int = 0) -> None:
    """Begin a worker process: its parent decides about Ctrl-C, and it ends with its parent."""
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # A pipe that the system closes, however the parent ends. Linux could send a signal instead,
        # but it does so at the end of a thread and knows nothing of a fork server.
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def worker_pool(workers: int, *, job: str) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes; on an error or a signal they end at once, with what they do.

    DeviceError where one of them was killed, or could not begin; `job` says what they do.
    """
    # Forked processes would inherit the locks of torch's threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), start_worker)
    others = active_children()
    try:
        yield pool
    except BaseException as error:
        for process in set(active_children()).difference(others):
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise DeviceError(
                f"One of {workers} processes that {job} was killed by the system, as happens where "
                "memory runs out, or could not begin. Free some memory, or use fewer processes; in "
                'a script, put the call that starts them below `if __name__ == "__main__":`.'
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
