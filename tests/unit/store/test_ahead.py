"""Parts that are fetched ahead: in order, few at a time, and none after a failure."""

import threading
from functools import partial

import pytest

from fedfs.store.ahead import in_order

WAIT_S = 20.0


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_results_come_in_the_order_of_the_calls(at_once):
    is_late = threading.Event()

    def call(number):
        if number == 0 and at_once > 1:
            assert is_late.wait(WAIT_S)
        is_late.set()
        return number

    assert list(in_order(map(partial, [call] * 20, range(20)), at_once=at_once)) == [*range(20)]


def test_the_next_call_is_made_while_a_result_is_used():
    has_begun = [threading.Event() for _ in range(3)]
    results = in_order((event.set for event in has_begun), at_once=1)
    next(results)
    assert has_begun[1].wait(WAIT_S)
    results.close()


def test_few_calls_are_taken_ahead():
    taken = []

    def calls():
        for number in range(100):
            taken.append(number)
            yield lambda: None

    results = in_order(calls(), at_once=3)
    next(results)
    assert len(taken) == 4
    next(results)
    assert len(taken) == 5
    results.close()


def test_after_a_failure_no_further_call_is_taken():
    made = []

    def call(number):
        made.append(number)
        if number == 2:
            raise OSError("broken")
        return number

    got = []
    with pytest.raises(OSError, match="broken"):
        got.extend(in_order(map(partial, [call] * 100, range(100)), at_once=2))
    assert max(made) <= 5
