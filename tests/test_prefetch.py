import threading
from collections.abc import Iterator
from itertools import count, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amd_seg.prefetch import map_ahead, read_ahead


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 20), ahead=st.integers(1, 30))
def test_results_come_in_order(length: int, ahead: int) -> None:
    assert list(map_ahead(lambda x: x * x, range(length), ahead=ahead)) == [
        x * x for x in range(length)
    ]


def test_at_most_ahead_results_wait() -> None:
    taken: list[int] = []
    items = (taken.append(x) or x for x in count(1))  # type: ignore[func-returns-value]
    results = map_ahead(lambda x: x, items, ahead=3)
    assert list(islice(results, 5)) == [1, 2, 3, 4, 5]
    results.close()
    assert len(taken) == 5 + 3


def test_heavy_results_leave_less_room() -> None:
    taken: list[int] = []
    items = (taken.append(x) or x for x in count(1))  # type: ignore[func-returns-value]
    results = map_ahead(lambda x: x, items, ahead=8, weigh=lambda x: 10, budget=20)
    assert list(islice(results, 20)) == list(range(1, 21))
    results.close()
    assert len(taken) <= 20 + 2


def test_an_error_comes_in_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()
    results = map_ahead(lambda x: 6 // x, [3, 2, 0, 1], ahead=2)
    assert next(results) == 2
    assert next(results) == 3
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_reading_ahead_keeps_order_and_takes_at_most_ahead() -> None:
    assert list(read_ahead(iter(range(20)), ahead=3)) == list(range(20))
    taken: list[int] = []
    items = (taken.append(x) or x for x in count(1))  # type: ignore[func-returns-value]
    read = read_ahead(items, ahead=3)
    assert list(islice(read, 5)) == [1, 2, 3, 4, 5]
    read.close()
    assert len(taken) <= 5 + 3


def test_reading_ahead_raises_in_place_and_closes_its_generator() -> None:
    before, closed = threading.active_count(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from (1, 2)
            raise RuntimeError("in its place")
        finally:
            closed.set()

    read = read_ahead(items(), ahead=8)
    assert [next(read), next(read)] == [1, 2]
    with pytest.raises(RuntimeError, match="in its place"):
        next(read)
    endless = (closed.clear() or x for x in count())  # type: ignore[func-returns-value]
    left = read_ahead(endless, ahead=2)
    next(left)
    left.close()
    with pytest.raises(StopIteration):
        next(endless)
    assert threading.active_count() == before


def test_reading_ahead_runs_beside_the_caller() -> None:
    ready = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        ready.set()
        yield 2

    read = read_ahead(items(), ahead=2)
    assert next(read) == 1
    assert ready.wait(timeout=10)
    read.close()
