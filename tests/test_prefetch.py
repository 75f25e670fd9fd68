"""Threads that work ahead: order, memory, errors, and an end."""

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
    squares = [x * x for x in range(length)]
    assert list(map_ahead(lambda x: x * x, range(length), ahead=ahead)) == squares
    assert list(read_ahead(iter(squares), ahead=ahead)) == squares


@pytest.mark.parametrize(
    ("start", "waiting"),
    [
        (lambda items: map_ahead(lambda x: x, items, ahead=3), 3),
        (lambda items: read_ahead(items, ahead=3), 3),
        (lambda items: map_ahead(lambda x: x, items, ahead=8, weigh=lambda x: 10, budget=20), 2),
    ],
    ids=["map", "read", "heavy results"],
)
def test_so_many_results_wait(start, waiting: int) -> None:
    taken: list[int] = []
    results = start(taken.append(x) or x for x in count(1))
    assert list(islice(results, 20)) == list(range(1, 21))
    results.close()
    assert len(taken) <= 20 + waiting


def test_an_error_comes_in_its_place_and_ends_the_threads() -> None:
    before, inputs = threading.active_count(), [3, 2, 0, 1]
    for results in (
        map_ahead(lambda x: 6 // x, inputs, ahead=2),
        read_ahead((6 // x for x in inputs), ahead=8),
    ):
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert threading.active_count() == before


def test_closing_ends_the_thread_and_the_generator() -> None:
    before, closed = threading.active_count(), []

    def items() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.append(True)

    read = read_ahead(items(), ahead=1)
    next(read)
    read.close()
    assert (closed, threading.active_count()) == ([True], before)
