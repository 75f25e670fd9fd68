"""Threads that work ahead while the caller is busy; order kept, memory bounded."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, takewhile
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], *, ahead: int) -> Generator[Item, None, None]:
    """Yield `items` in their order, taken by one thread, up to `ahead` of them before the caller.

    Closing it waits for the item that is under way, and closes a generator; see `map_ahead`.
    """
    iterator, end = iter(items), object()
    taken = map_ahead(lambda _: next(iterator, end), count(), ahead=ahead, threads=1)
    try:
        yield from cast(Iterable[Item], takewhile(lambda item: item is not end, taken))
    finally:
        taken.close()
        if isinstance(iterator, Generator):
            iterator.close()


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    weigh: Callable[[Result], int] = lambda result: 1,
    budget: int | None = None,
    threads: int = 16,
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of `items`, computed by threads ahead of the caller.

    Up to `ahead` results, finished or not, wait for the caller, in whose thread `items` are taken.
    With a `budget` fewer wait, as many as weigh so much if all weigh what the last one did.

    An exception of `function` is raised in its place, one of `items` at once; closing the iterator
    cancels what has not begun and waits for what has.
    """
    waiting, room = deque[Future[Result]](), ahead
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1, threads)) as pool:
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
