"""Threads that work ahead: order, memory, errors, and an end."""

import threading
from itertools import count, islice

import pytest

from amd_seg.prefetch import map_ahead, read_ahead

STARTS = {
    "map": (lambda items: map_ahead(lambda x: x, items, ahead=3), 3),
    "read": (lambda items: read_ahead(items, ahead=3), 3),
    "heavy": (lambda xs: map_ahead(lambda x: x, xs, ahead=8, weigh=lambda x: 10, budget=20), 2),
}


@pytest.mark.parametrize("name", STARTS)
def test_results_come_in_order_and_so_many_wait(name: str) -> None:
    start, waiting = STARTS[name]
    for length in (0, 1, 3, 4, 20):
        assert list(start(range(length))) == list(range(length))
    before, taken = threading.active_count(), list[int]()
    results = start(taken.append(x) or x for x in count(1))
    assert list(islice(results, 20)) == list(range(1, 21))
    results.close()
    assert len(taken) <= 20 + waiting
    assert threading.active_count() == before
