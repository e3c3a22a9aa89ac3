"""An engine for tests in this process: it executes nothing, and each test says what becomes of a run."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comfyui_tryon import exchange
from comfyui_tryon.engine.interface import EngineDead, GraphError, Interrupted, Progress, Run
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS


class FakeEngine:
    """Answers each run with its person image, unless `outcome` is an exception or `holds` is set.

    Attributes:
        runs: all runs that were queued.
        holds: whether runs wait for `start` and `finish`.
        outcome: how runs end: None for the person image, else the exception they fail with.
        graph_error: what `validate` finds wrong with every prompt.
        dead: what `fault` says.
        deliveries: where it is set, the outputs that deliver, by their places, instead of the first one.
    """

    name = "fake engine"

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.holds = False
        self.outcome: Exception | None = None
        self.graph_error: str | None = None
        self.dead: str | None = None
        self.deliveries: list[int] = []

    def watch_progress(self) -> None:
        pass

    def node_classes(self) -> Mapping[str, type]:
        return NODE_CLASS_MAPPINGS

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        if self.graph_error:
            raise GraphError(self.graph_error)

    def queue(self, run: Run) -> None:
        self.runs.append(run)
        if not self.holds:
            asyncio.get_running_loop().call_soon(self.finish, run)

    def cancel(self, run: Run) -> None:
        run.finish(Interrupted())
        run.release()

    def fault(self) -> str | None:
        return self.dead

    def take_over(self) -> None:
        pass

    def fail_all_runs(self) -> None:
        for run in self.runs:
            run.finish(EngineDead())
            run.release()

    def start(self, run: Run, *progress: Progress) -> None:
        run.on_start()
        for step in progress:
            run.on_progress(step)

    def finish(self, run: Run) -> None:
        self.start(run)
        if self.outcome is None:
            job = exchange.find(run.prompt[run.outputs[0]]["inputs"]["token"])
            batch = run.prompt.get("7", {}).get("inputs", {}).get("batch_size", 1)
            for number, place in enumerate(self.deliveries or [0] * batch):
                # the images of one run differ in their height, which tells them apart
                person = job.images["person_image"]
                job.deliver(person[: len(person) - number] if self.deliveries else person, place)
        run.finish(self.outcome)
        run.release()

    def device(self) -> Any:
        raise AssertionError("nothing is executed here")

    hold = load = progress = device

    def device_memory(self) -> tuple[int, int]:
        return 2, 3

    def input_folder(self) -> Path | None:
        return None

    user_folder = output_folder = temp_folder = input_folder
