from __future__ import annotations

import threading
import time

import pytest

from unprompt.parallel import cores, in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_items(workers, count):
    def task(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(in_order(task, iter(range(count)), workers)) == [n * n for n in range(count)]


def test_items_are_taken_as_results_are_asked_for():
    taken: list[int] = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), 3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) <= 5 + 2 * 3
    results.close()


def test_an_error_comes_in_its_turn_and_setup_runs_in_each_thread():
    ready: set[int] = set()

    def task(number: int) -> int:
        assert threading.get_ident() in ready
        if number == 3:
            raise ValueError("the third")
        return number

    results = in_order(task, range(10), 2, lambda: ready.add(threading.get_ident()))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert cores() >= 1
