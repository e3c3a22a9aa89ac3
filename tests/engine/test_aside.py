"""Other packs' code runs where it holds nobody up."""

import asyncio
import threading

import pytest
from comfyui_tryon.engine import aside
from support.waiting import until


@pytest.fixture
def gate():
    """Holds calls up until the test has ended."""
    event = threading.Event()
    free = aside._calls._value
    yield event
    event.set()
    until(lambda: aside._calls._value == free)


async def test_what_a_call_returns_or_raises_comes_back():
    assert await aside.call(lambda: 7, 60) == 7
    with pytest.raises(ZeroDivisionError):
        await aside.call(lambda: 1 / 0, 60)


async def test_the_loop_goes_on_and_a_call_that_is_too_slow_is_given_up(gate):
    waiting = asyncio.ensure_future(aside.call(gate.wait, 0.05))
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(aside.TooSlow):
        await waiting


async def test_many_calls_that_hang_are_bounded(gate):
    hanging = [aside.start(gate.wait) for _ in range(aside.MAX_CALLS)]
    with pytest.raises(aside.TooSlow):
        await aside.call(lambda: 7, 60)
    gate.set()
    assert all(call.result(60) for call in hanging)
    until(lambda: aside._calls._value == aside.MAX_CALLS)
    assert await aside.call(lambda: 7, 60) == 7
