"""Keeps a folder of workflow files: reads them when they change, publishes new ones, withdraws them."""

import asyncio
import json
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..engine.interface import Engine
from ..reply_models import BoundWorkflow, WorkflowList
from ..settings import TEMPLATES, WORKFLOWS
from .binding import Workflow
from .checking import check
from .format import WorkflowInvalid
from .pages import converts_to, page_file, published_page
from .parsing import LoadImage, parse_workflow, parsed_json
from .unservable import NAME, PAGE_FOLDER, unservable

logger = logging.getLogger(__name__)

MAX_BYTES = 4_000_000  # a file of 500 nodes has 1 MB


class Workflows:
    """Serves workflow files; a file that is refused leaves its last good version serving.

    They are those of the folder that workflows are published to and, under names that it does not have, those of the
    bundled one, which may be the same folder.

    A file that has changed is read when it is next asked for, in a separate thread, and checked against the running
    engine before it is served.
    """

    def __init__(self, folder: Path, engine: Engine, bundled: Path | None = None) -> None:
        self._folder = folder
        self._bundled = bundled or folder
        self._engine = engine
        self._checks: dict[str, _Check] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pool = ThreadPoolExecutor(4, "workflow")
        self._reported: set[tuple[str, str]] = set()
        self._unservable()

    def names(self) -> list[str]:
        """Returns the names of all workflow files, sorted, including those that are refused."""
        paths = chain.from_iterable(folder.glob("*.json") for folder in (self._folder, self._bundled))
        return sorted({path.stem for path in paths if NAME.fullmatch(path.stem)})

    async def get(self, name: str) -> Workflow:
        """Returns the workflow called `name`; if its file has changed, waits without blocking the event loop.

        Raises:
            KeyError: there is no such file.
            WorkflowInvalid: the file is refused and has no earlier good version.
        """
        check = self._check(name)
        # shielded, because canceling this caller must not cancel the check that others may be waiting for
        found = check.result() if check.done() else await asyncio.shield(asyncio.wrap_future(check))
        if found.workflow is None:
            raise WorkflowInvalid(found.problem)
        return found.workflow

    def refused(self) -> int:
        """Returns how many files are refused in the state in which they were asked for last."""
        with self._lock:
            return sum(check.found.done() and bool(check.found.result().problem) for check in self._checks.values())

    def describe(self, default: str) -> WorkflowList:
        """Describes all workflows for people; `default` is the name of the one for requests that name none.

        Files that no request can ask for are listed by their file names, each with the reason.
        Reads the files that have changed: call it off the event loop.
        """
        described = []
        for name in self.names():
            try:
                found = self._check(name).result()
            except KeyError:  # it was removed in the meantime
                continue
            described.append(
                found.workflow.description(name == default, found.problem)
                if found.workflow
                else BoundWorkflow(name=name, default=name == default, problem=found.problem)
            )
        described += [BoundWorkflow(name=name, default=False, problem=problem) for name, problem in self._unservable()]
        return WorkflowList(workflows=described)

    def _unservable(self) -> list[tuple[str, str]]:
        """Returns the files that no request can ask for, with the reasons, and logs each once."""
        found = unservable(self._folder)
        for name, problem in found:
            if (name, problem) not in self._reported:
                logger.error("Workflow file %r is not served: %s", name, problem)
        self._reported = set(found)
        return found

    def document(self, name: str) -> dict[str, Any]:
        """Returns a workflow's file as `{"workflow": the page's graph}`, or `{"prompt": ...}` where there is none.

        Raises:
            KeyError: there is no such file.
            WorkflowInvalid: it cannot be read.
        """
        if not NAME.fullmatch(name) or not self._path(name).is_file():
            raise KeyError(name)
        served = self._read(name)
        found = published_page(self._page(name), served) or parsed_json(served)
        return {"workflow" if isinstance(found, dict) and "nodes" in found else "prompt": found}

    def publish(self, name: str, body: bytes) -> Workflow:
        """Makes the web page's open graph the workflow called `name`, if it can serve. Call it off the event loop.

        The file is the page's own graph, so that the page can open what is served. If it does not convert to the
        very prompt that the page would queue, the file is the prompt, and the graph is kept in the folder `page`.

        Args:
            body: JSON, `{"workflow": the graph as the page saves it, "prompt": the API prompt that it queues}`.

        Raises:
            WorkflowInvalid: nothing was written.
        """
        if not NAME.fullmatch(name):
            raise WorkflowInvalid("its name must be 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
        document = parsed_json(body)
        page, prompt = (document.get(key) if isinstance(document, dict) else None for key in ("workflow", "prompt"))
        if not isinstance(page, dict) or not isinstance(prompt, dict):
            raise WorkflowInvalid("send a JSON object with the page's graph as workflow and its API prompt as prompt")
        converts = converts_to(name, prompt, page, self._node_classes())
        content = json.dumps(page if converts else prompt, indent=1).encode()
        workflow = self._checked(name, content)
        with self._writing:
            if not converts:
                self._write(self._page(name), page_file(page, workflow.version))
            self._write(self._folder / f"{name}.json", content)
            if converts:
                self._remove_page(name)
        return workflow

    def withdraw(self, name: str) -> None:
        """Removes a published workflow's files; a bundled one of its name is served again.

        Raises:
            KeyError: there is no such file, or it comes with the pack.
        """
        if not NAME.fullmatch(name) or self._comes_with_the_pack(name):
            raise KeyError(name)
        with self._writing:
            try:
                (self._folder / f"{name}.json").unlink()
            except OSError:
                raise KeyError(name) from None
            self._remove_page(name)

    def _comes_with_the_pack(self, name: str) -> bool:
        """Whether the file is the repository's own, which is a template too: a clone publishes beside those."""
        return self._folder.resolve() == WORKFLOWS.resolve() and (TEMPLATES / f"{name}.json").is_file()

    def _node_classes(self) -> Mapping[str, type]:
        # at every check, because packs that ComfyUI loads after this one add classes
        return {"LoadImage": LoadImage, **self._engine.node_classes()}

    def _check(self, name: str) -> "Future[_Found]":
        """Returns the check of the file in its present state, which it starts if the file has changed.

        Raises:
            KeyError: there is no such file.
        """
        stamp = self._stamp(name)
        with self._lock:
            if stamp is None:
                self._checks.pop(name, None)
                raise KeyError(name)
            last = self._checks.get(name)
            if last is None or last.stamp != stamp:
                before = last.found if last else None
                self._checks[name] = _Check(stamp, self._pool.submit(self._find, name, before))
            return self._checks[name].found

    def _stamp(self, name: str) -> tuple[int, ...] | None:
        """Returns numbers that change whenever the file does, or None if there is no file."""
        if not NAME.fullmatch(name):
            return None
        try:
            status = self._path(name).stat()
        except FileNotFoundError:
            return None
        except OSError:  # such as a link to itself: there is a file, and reading it says what is wrong with it
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size

    def _find(self, name: str, before: "Future[_Found] | None") -> "_Found":
        try:
            workflow = self._checked(name, self._read(name))
        except WorkflowInvalid as error:
            # no deadlock: `before` was started earlier, and the pool starts its tasks in order
            last_good = before.result().workflow if before else None
            serving = f"version {last_good.version} is still served" if last_good else "nothing is served"
            logger.error("Workflow %s is refused, %s: %s", name, serving, error)
            return _Found(last_good, str(error))
        logger.info("Workflow %s: version %s is served", name, workflow.version)
        return _Found(workflow, None)

    def _checked(self, name: str, data: bytes) -> Workflow:
        """Returns the workflow in `data`.

        Raises:
            WorkflowInvalid: the running engine would not execute it.
        """
        if len(data) > MAX_BYTES:
            raise WorkflowInvalid(f"it is larger than {MAX_BYTES / 1e6:g} MB")
        return check(self._engine, lambda: parse_workflow(name, data, self._node_classes()))

    def _read(self, name: str) -> bytes:
        try:
            path = self._path(name).resolve(strict=True)
            if not any(path.is_relative_to(folder.resolve()) for folder in (self._folder, self._bundled)):
                raise WorkflowInvalid("it is a link out of the workflows folder")
            with open(path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise WorkflowInvalid("it is not a file")
                return file.read(MAX_BYTES + 1)  # one more than allowed, which shows that it is too large
        except IsADirectoryError:
            raise WorkflowInvalid("it is not a file") from None
        except OSError as error:
            raise WorkflowInvalid(f"it cannot be read ({error.strerror})") from None  # not str(error): it has the path
        except RuntimeError:  # what Path.resolve raises before Python 3.13
            raise WorkflowInvalid("it is a link to itself") from None

    def _path(self, name: str) -> Path:
        """Returns the file that serves, or would serve, as the workflow called `name`."""
        path = self._folder / f"{name}.json"
        bundled = self._bundled / path.name
        return bundled if not os.path.lexists(path) and bundled.is_file() else path

    def _page(self, name: str) -> Path:
        return self._folder / PAGE_FOLDER / f"{name}.json"

    def _remove_page(self, name: str) -> None:
        page = self._page(name)
        if page.parent.resolve().is_relative_to(self._folder.resolve()):
            page.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        """Replaces a file at once, so that nobody reads half of it."""
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(self._folder.resolve()):
                raise WorkflowInvalid(f"{path.parent.name} is a link out of the workflows folder")
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
                part = Path(file.name)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)  # temporary files are their owner's only; the server may be another user
            part.replace(path)
        except OSError as error:
            raise WorkflowInvalid(f"it cannot be written ({error.strerror})") from None
        finally:
            if part:
                part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Found:
    """The outcome of a check: the version to serve, and why the current content is refused, if it is."""

    workflow: Workflow | None
    problem: str | None


@dataclass(frozen=True)
class _Check:
    """The check of a file in one state."""

    stamp: tuple[int, ...]
    found: Future[_Found]


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
