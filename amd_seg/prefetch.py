"""Threads that work ahead while the caller is busy; order kept, memory bounded."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], *, ahead: int) -> Generator[Item, None, None]:
    """Yield `items` in their order, taken by one thread, up to `ahead` of them before the caller.

    An exception of `items` is raised in its place. Closing the iterator waits for the item that is
    under way, and closes a generator.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, iterator, end))
                yield cast(Item, item)
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(iterator, Generator):
                iterator.close()


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    weigh: Callable[[Result], int] = lambda result: 1,
    budget: int | None = None,
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of `items`, computed by threads ahead of the caller.

    Up to `ahead` results, finished or not, wait for the caller, in whose thread `items` are taken.
    With a `budget` fewer wait, as many as weigh so much if all weigh what the last one did.

    An exception of `function` or of `items` is raised in its place; closing the iterator
    cancels what has not begun and waits for what has.
    """
    waiting, room = deque[Future[Result]](), ahead
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1, 16)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while len(waiting) > room:
                    result = waiting.popleft().result()
                    if budget is not None:
                        room = max(1, min(ahead, budget // max(weigh(result), 1)))
                    yield result
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
