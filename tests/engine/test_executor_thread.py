"""What keeps ComfyUI's executor thread going, and its queue watched, tried on stand-ins for ComfyUI's own."""

import asyncio
import gc
import heapq
import inspect
import queue
import sys
import threading
import traceback
import types
import weakref

import pytest
from comfyui_tryon import metrics
from comfyui_tryon.engine.comfyui_queue import watch
from comfyui_tryon.engine.comfyui_worker import MAX_DEATHS_IN_A_ROW, ExecutorThread, guard_nodes
from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.engine.raised import MAX_TEXT, bounded, text_of, trace_of
from comfyui_tryon.masker import NoPersonFound
from support.waiting import until

# Python shows what ends a thread, and pytest warns of it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Interruption(Exception):
    pass


class Executor:
    """A thread that takes numbers and ends at those below zero, as ComfyUI's does at what is not an Exception."""

    def __init__(self) -> None:
        self.prompts: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.done: list[int] = []
        self.deaths = 0
        self.watched = ExecutorThread(self.on_death)
        self.start = lambda: threading.Thread(target=self.work, args=("as before",), daemon=True).start()

    def on_death(self) -> None:
        self.deaths += 1

    def work(self, argument: str) -> None:
        assert argument == "as before"
        while True:
            self.watched.on_get()
            number = self.prompts.get()
            if number < 0:
                raise SystemExit
            self.done.append(number)
            self.watched.on_end()


@pytest.fixture
def executor():
    return Executor()


def restarts() -> float:
    return metrics.registry.get_sample_value("tryon_executor_restarts_total")


def test_a_thread_that_ends_is_replaced_and_counted(executor):
    before = restarts()
    executor.watched.replaces = True
    executor.start()
    for number in (1, -1, 2, -1, -1, 3):
        executor.prompts.put(number)
    until(lambda: executor.done == [1, 2, 3])
    assert executor.watched.fault is None
    assert executor.deaths == restarts() - before == 3


def test_a_thread_that_only_ends_is_given_up(executor):
    executor.watched.replaces = True
    executor.start()
    for _ in range(MAX_DEATHS_IN_A_ROW):
        executor.prompts.put(-1)
    until(lambda: executor.watched.fault)
    assert executor.deaths == MAX_DEATHS_IN_A_ROW - 1


def test_in_somebodys_own_comfyui_it_stays_as_it_is(executor):
    before = restarts()
    executor.start()
    executor.prompts.put(-1)
    until(lambda: executor.watched.fault)
    assert executor.deaths == 0 and restarts() == before


class Untold(Exception):
    def __str__(self) -> str:
        raise SystemExit


class MyMemoryError(MemoryError):
    pass


STRANGE = [
    SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), Untold(), MyMemoryError("little"),
    ValueError("\ud800"), ValueError("m" * 10**6),
]  # fmt: skip


RUN = types.SimpleNamespace(is_canceled=False)


def raised_by(
    error: BaseException, ours: bool = True, kind: str = "function", on_requests_fault=pytest.fail
) -> BaseException:
    """Returns what ComfyUI gets from a guarded node that raises `error`."""

    def node():
        raise error

    async def coroutine():
        raise error

    # the last as other packs replace a coroutine function
    functions = {"function": node, "coroutine": coroutine, "wrapped coroutine": lambda: coroutine()}
    execution = types.SimpleNamespace(get_output_data=functions[kind])
    guard_nodes(execution, Interruption, lambda: RUN if ours else None, on_requests_fault)
    with pytest.raises(BaseException) as caught:
        waiting = execution.get_output_data()
        waiting.send(None)
    return caught.value


@pytest.mark.parametrize("kind", ["function", "coroutine", "wrapped coroutine"])
@pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__name__)
def test_what_comfyui_cannot_handle_becomes_an_ordinary_exception(error, kind, caplog):
    found = raised_by(error, kind=kind)
    assert isinstance(found, Exception) and found is not error
    assert len(str(found).encode()) < 2 * MAX_TEXT
    assert NodeFailed.of("1", "A", found).is_out_of_memory == isinstance(error, MemoryError)
    assert type(found).__name__ in ("MemoryError", type(error).__name__)
    assert "cannot handle or show" in caplog.text and len(caplog.text) < 3 * MAX_TEXT


@pytest.mark.parametrize("error", [ValueError("a text"), Interruption(), Interruption("\ud800")])
def test_ordinary_exceptions_and_interruptions_pass(error):
    assert raised_by(error) is error


@pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__name__)
def test_what_other_peoples_prompts_raise_passes(error):
    assert raised_by(error, ours=False) is error


def test_tracebacks_of_other_peoples_prompts_have_no_frame_of_the_pack():
    found = raised_by(ValueError("a text"), ours=False, kind="coroutine")
    assert not any("comfyui_tryon" in frame.filename for frame in traceback.extract_tb(found.__traceback__))


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="from Python 3.12 on")
def test_other_packs_can_tell_that_nodes_are_awaited():
    async def node():
        pass

    for original, is_coroutine in ((node, True), (lambda: None, False)):
        execution = types.SimpleNamespace(get_output_data=original)
        guard_nodes(execution, Interruption, lambda: None, pytest.fail)
        assert inspect.iscoroutinefunction(execution.get_output_data) == is_coroutine


def test_a_canceled_run_executes_no_further_node():
    run, executed = types.SimpleNamespace(is_canceled=False), []
    execution = types.SimpleNamespace(get_output_data=executed.append)
    guard_nodes(execution, Interruption, lambda: run, pytest.fail)
    execution.get_output_data("first")
    run.is_canceled = True
    with pytest.raises(Interruption):
        execution.get_output_data("second")
    assert executed == ["first"]


def test_a_fault_of_the_request_interrupts_and_is_told():
    told: list[BaseException] = []
    error = NoPersonFound()
    assert isinstance(raised_by(error, on_requests_fault=told.append), Interruption) and told == [error]
    assert raised_by(error, ours=False) is error


@pytest.mark.parametrize("ours", [True, False])
def test_what_a_failed_node_held_is_free_before_comfyui_unloads_its_models(ours):
    class Tensor:
        """What can be referred to weakly."""

    held: list[weakref.ref] = []

    def helper():
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise KeyError

    def node():
        try:
            helper()
        except KeyError:
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            raise MyMemoryError  # noqa: B904

    def execute() -> list[bool]:
        try:
            execution.get_output_data()
        except Exception:
            _, _, trace = sys.exc_info()  # ComfyUI's own cycle: the traceback has this frame, this frame the traceback
            return [reference() is None for reference in held] if trace else []
        return []

    execution = types.SimpleNamespace(get_output_data=node)
    guard_nodes(execution, Interruption, lambda: RUN if ours else None, pytest.fail)
    gc.disable()
    try:
        assert execute() == [ours, ours]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "error_type, message, is_memory",
    [
        ("MemoryError", "", True),
        ("_ArrayMemoryError", "Unable to allocate 1.00 PiB for an array", True),
        ("OutOfMemoryError", "", True),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes", True),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", True),
        ("RuntimeError", "CUDA error: out of memory", True),
        ("OSError", "[Errno 12] Cannot allocate memory", True),
        ("RuntimeError", "CUDA error: device-side assert triggered", False),
        ("ValueError", "no memory of it", False),
    ],
)
def test_memory_that_ran_out_is_known_by_its_name_or_its_text(error_type, message, is_memory):
    failure = NodeFailed("1", "A", error_type, message)
    assert failure.is_out_of_memory == is_memory
    assert failure.is_device_fault == ("assert" in message)


def test_texts_are_bounded_and_can_be_encoded():
    assert bounded("short") == "short"
    long = bounded("start" + "m" * 10**6 + "end")
    assert len(long) < MAX_TEXT + 10 and long.startswith("start") and long.endswith("end")
    assert bounded("\ud800") == "\\ud800"
    assert "SystemExit" in text_of(Untold())
    assert "Untold" in trace_of(Untold())


class PromptQueue:
    """ComfyUI's, as far as it matters."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.queue: list[tuple] = []
        self.currently_running: dict[int, tuple] = {}

    def get(self, timeout=None) -> tuple | None:
        if not self.queue:
            return None
        item = heapq.heappop(self.queue)
        self.currently_running[item[0]] = item
        return item, item[0]

    def task_done(self, item_id, history_result, status, process_item=None) -> None:
        del self.currently_running[item_id]

    def put(self, *names: str) -> None:
        for name in names:
            heapq.heappush(self.queue, (len(self.queue), name))

    def wipe_queue(self) -> None:
        self.queue = []

    def delete_queue_item(self, function) -> bool:
        for index, item in enumerate(self.queue):
            if function(item):
                if len(self.queue) == 1:
                    self.wipe_queue()
                else:
                    self.queue.pop(index)
                return True
        return False


def test_what_leaves_the_queue_without_running_is_told():
    removed: list[str] = []
    watched = PromptQueue()
    watch(watched, types.SimpleNamespace(on_removed=removed.append))
    watched.put("a", "b", "c", "d")
    assert watched.delete_queue_item(lambda item: item[1] == "b") and removed == ["b"]
    assert not watched.delete_queue_item(lambda item: item[1] == "b") and removed == ["b"]
    watched.wipe_queue()
    assert removed == ["b", "a", "c", "d"]
    watched.put("e")
    assert watched.delete_queue_item(lambda item: True) and set(removed) == {"a", "b", "c", "d", "e"}


METHODS = ("get", "task_done", "wipe_queue", "delete_queue_item")


def wraps(queue: PromptQueue, cls: type) -> None:
    for name in METHODS:
        original = getattr(queue, name)
        setattr(queue, name, lambda *args, original=original, **kwargs: original(*args, **kwargs))


def wraps_by_position(queue: PromptQueue, cls: type) -> None:
    original = queue.task_done
    queue.task_done = lambda item_id, result, status, more=None: original(item_id, result, status, more)


def wraps_the_class(queue: PromptQueue, cls: type) -> None:
    for name in METHODS:
        original = getattr(cls, name)
        setattr(cls, name, lambda *args, original=original, **kwargs: original(*args, **kwargs))


def replaces(queue: PromptQueue, cls: type) -> None:
    """Calls nothing of what it replaces, as packs do that give each user a queue."""
    for name in METHODS:
        setattr(queue, name, types.MethodType(getattr(PromptQueue, name), queue))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("pack", [wraps, wraps_by_position, wraps_the_class, replaces])
def test_a_queue_that_another_pack_has_changed_tells_all(pack, earlier):
    class Host(PromptQueue):
        pass

    told: list[tuple] = []
    listener = types.SimpleNamespace(
        on_get=lambda: told.append(("asked",)),
        on_start=lambda name: told.append(("started", name)),
        on_end=lambda name, messages: told.append(("ended", name, messages)),
        on_removed=lambda name: told.append(("removed", name)),
    )
    watched = Host()
    for step in (pack, watch) if earlier else (watch, pack):
        step(watched, listener if step is watch else Host)
    watched.put("a", "b", "c")
    item, item_id = watched.get(timeout=1)
    watched.task_done(item_id, {}, status=types.SimpleNamespace(messages=("good",)))
    watched.delete_queue_item(lambda item: item[1] == "b")
    watched.wipe_queue()
    expected = [("asked",), ("started", "a"), ("ended", "a", ("good",)), ("removed", "b"), ("removed", "c")]
    assert list(dict.fromkeys(told)) == expected
    assert item == (0, "a") and not watched.currently_running and not watched.queue
