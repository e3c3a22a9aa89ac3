"""The embedded engine's thread outlives its nodes, and says which of them failed."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
import torch
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.engine.interface import GraphError, Interrupted, NodeFailed, Run


def node(**members):
    """A class that returns 1, changed by `members`."""
    plain = {
        "RETURN_TYPES": ("INT",),
        "FUNCTION": "run",
        "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
        "run": lambda self: (1,),
    }
    return type("Node", (), plain | members)


def raising(error: type[BaseException]):
    def run(*given):
        raise error

    return run


def test_a_model_that_nobody_has_any_more_is_let_go():
    engine = EmbeddedEngine({})
    kept, other = (engine.hold(torch.nn.Linear(1, 1)) for _ in range(2))
    gone = weakref.ref(other.model)
    del other
    gc.collect()
    assert gone() is None and kept.model is not None


BAD = {
    "exit": node(run=raising(SystemExit)),
    "keyboard": node(run=raising(KeyboardInterrupt)),
    "canceled": node(run=raising(asyncio.CancelledError)),
    "generator": node(run=raising(GeneratorExit)),
    "constructor": node(__init__=raising(SystemExit)),
    "nothing": node(run=lambda self: None),
    "too_few": node(run=lambda self: ()),
    "another_type": node(run=lambda self: 7),
    "no_function": node(FUNCTION="missing"),
    "memory": node(run=raising(MemoryError)),
}


@pytest.fixture(scope="module")
def engine():
    return EmbeddedEngine({"Good": node(), **BAD})


async def outcome(engine, class_type: str) -> BaseException | None:
    run = Run({"1": {"class_type": class_type, "inputs": {}}}, ["1"])
    engine.queue(run)
    await run.released
    return run.finished.exception()


@pytest.mark.parametrize("name", BAD)
async def test_a_node_that_misbehaves_fails_its_own_run_only(engine, name, caplog):
    failure = await outcome(engine, name)
    assert isinstance(failure, NodeFailed) and (failure.node, failure.node_type) == ("1", name)
    assert failure.is_out_of_memory == (name == "memory")
    assert f"Node 1 ({name}) failed" in caplog.text
    assert await outcome(engine, "Good") is None
    assert engine.fault() is None


async def test_a_canceled_run_holds_nothing_that_its_nodes_have_made():
    class Image(list):
        """What can be referred to weakly."""

    made, started, go_on = [], threading.Event(), threading.Event()

    def make(self):
        image = Image([1])
        made.append(weakref.ref(image))
        return (image,)

    def wait(self, value):
        started.set()
        go_on.wait(10)
        return (1,)

    waiting = node(INPUT_TYPES=classmethod(lambda cls: {"required": {"value": ("INT",)}}), run=wait)
    engine = EmbeddedEngine({"Make": node(run=make), "Wait": waiting})
    wait_node = {"class_type": "Wait", "inputs": {"value": ["1", 0]}}
    after = {"class_type": "Wait", "inputs": {"value": ["2", 0]}}
    run = Run({"1": {"class_type": "Make", "inputs": {}}, "2": wait_node, "3": after}, ["3"])
    gc.disable()
    try:
        engine.queue(run)
        await asyncio.to_thread(started.wait, 10)
        engine.cancel(run)
        go_on.set()
        await run.released
        assert isinstance(run.finished.exception(), Interrupted)
        assert made[0]() is None
    finally:
        gc.enable()


async def test_what_a_node_held_that_ran_out_of_memory_is_free_before_the_models_are_unloaded(monkeypatch):
    class Tensor:
        """What can be referred to weakly."""

    held, freed = [], []

    def run(self):
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise MemoryError

    engine = EmbeddedEngine({"Full": node(run=run)})
    monkeypatch.setattr(engine, "_unload", lambda: freed.append(held[0]() is None))
    assert (await outcome(engine, "Full")).is_out_of_memory
    assert freed == [True]


async def test_models_that_cannot_be_unloaded_do_not_end_it_either(engine, monkeypatch):
    monkeypatch.setattr(engine, "_unload", raising(RuntimeError))
    assert (await outcome(engine, "memory")).is_out_of_memory
    assert await outcome(engine, "Good") is None


async def test_a_definition_that_raises_makes_the_graph_invalid_without_its_text():
    def definition(cls):
        raise SystemExit("secret")

    engine = EmbeddedEngine({"Bad": node(INPUT_TYPES=classmethod(definition))})
    with pytest.raises(GraphError, match="SystemExit") as caught:
        await engine.validate({"1": {"class_type": "Bad", "inputs": {}}}, ["1"])
    assert "secret" not in str(caught.value)


async def test_progress_is_reported_once_a_step_and_canceling_ends_it_between(engine):
    seen, steps = [], []

    def run(self):
        report = engine.progress(2)
        for step in (0, 0, 1, 1, 1, 2):
            report(step)
            steps.append(step)
        while True:
            report(2)
            time.sleep(0.001)

    engine._node_classes["Long"] = node(run=run)
    waiting = Run({"1": {"class_type": "Long", "inputs": {}}}, ["1"], on_progress=lambda step: seen.append(step.value))
    engine.queue(waiting)
    while len(steps) < 6:
        await asyncio.sleep(0.001)
    engine.cancel(waiting)
    await waiting.released
    assert type(waiting.finished.exception()).__name__ == "Interrupted"
    assert seen == [0, 1, 2]
