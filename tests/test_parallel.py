from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from unprompt.parallel import by_processes, cores, in_order


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


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_results_of_processes_come_in_the_order_of_the_items(workers):
    assert list(by_processes(str, range(200), workers)) == [str(n) for n in range(200)]


def test_an_error_in_a_process_comes_in_its_turn():
    results = by_processes(int, [*"0" * 40, "x", *"1" * 1000], 2)
    with pytest.raises(ValueError, match="'x'"):
        list(results)


def test_processes_end_when_the_one_they_work_for_is_killed():
    program = (
        "import os, time\n"
        "from unprompt.parallel import by_processes\n"
        "def task(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(0.01)\n"
        "list(by_processes(task, range(100_000), 2))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline()
        parent.kill()
        # Its processes hold the pipe open for as long as they live.
        parent.communicate(timeout=30)
