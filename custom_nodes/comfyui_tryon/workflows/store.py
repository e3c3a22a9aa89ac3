"""Workflow files: reads them, finds where a request's pictures and parameters go, fills them in, publishes new ones."""

import asyncio
import copy
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import threading
from collections import ChainMap
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.interface import Engine, GraphError, is_link
from ..schema import BoundWorkflow, WorkflowList
from .format import WorkflowFormatError, to_prompt

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INPUT_CLASSES = {
    "person_image": "TryOnPersonImage",
    "garment_image": "TryOnGarmentImage",
    "mask_image": "TryOnMaskImage",
}
# Titles by which a core LoadImage stands for an input.
TITLES = {
    "target person": "person_image",
    "person_image": "person_image",
    "reference garment": "garment_image",
    "garment_image": "garment_image",
    "mask_image": "mask_image",
}
# A request's parameters and the names that nodes have for them.
PARAMETERS = {
    "seed": ("seed",),
    "num_inference_steps": ("num_inference_steps", "steps"),
    "guidance_scale": ("guidance_scale", "cfg"),
    "cloth_type": ("cloth_type",),
    "width": ("width",),
    "height": ("height",),
    "num_images": ("batch_size",),
}
TAG = "[tryon:"
PICTURE_OUTPUTS = ("SaveImage", "PreviewImage")
MAX_BYTES = 4_000_000  # a file of 500 nodes has 1 MB
# Where the page's own graph lies when the file that serves is an API prompt that the graph does not convert to.
PAGE_FOLDER = "page"
PUBLISHED = ("workflow", "prompt")


class WorkflowInvalid(ValueError):
    """A workflow file cannot serve requests; the message says what to change in it."""


@dataclass(frozen=True)
class Workflow:
    """A checked workflow.

    Attributes:
        name: its file's name without .json.
        version: a hash of the file's content.
        graph: in ComfyUI's API format, its pictures' nodes being this pack's.
        inputs: ids of the nodes for person_image, garment_image and, if any, mask_image.
        parameters: for each parameter of a request, the (node id, input name) pairs that it replaces.
        outputs: ids of the TryOnOutput nodes.
        mask_required: whether it cannot do without the request's mask.
        request_independent: ids of the nodes that do not depend on the request's pictures.
    """

    name: str
    version: str
    graph: Mapping[str, dict]
    inputs: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Sequence[tuple[str, str]]]
    outputs: Sequence[str]
    mask_required: bool
    request_independent: frozenset[str]

    def description(self, default: bool, problem: str | None = None) -> BoundWorkflow:
        """For people; `problem` is why a newer version of its file is refused."""
        first = {name: places[0] for name, places in self.parameters.items()}
        return BoundWorkflow(
            name=self.name,
            version=self.version,
            default=default,
            parameters={name: self.graph[node]["inputs"].get(key) for name, (node, key) in first.items()},
            bound={
                **{field: list(nodes) for field, nodes in self.inputs.items()},
                **{name: [f"{node}.{key}" for node, key in places] for name, places in self.parameters.items()},
            },
            outputs=list(self.outputs),
            mask="required" if self.mask_required else "optional" if self.inputs.get("mask_image") else "none",
            problem=problem,
        )

    def prompt(self, token: str, values: Mapping[str, Any]) -> dict[str, dict]:
        """The graph of one request: its pictures by `token`, its parameters by name; those left out stay the file's."""
        prompt = copy.deepcopy(dict(self.graph))
        for node in (*(node for nodes in self.inputs.values() for node in nodes), *self.outputs):
            prompt[node]["inputs"]["token"] = token
        for parameter, value in values.items():
            for node, name in self.parameters.get(parameter, ()):
                prompt[node]["inputs"][name] = value
        return prompt


class LoadImage:
    """What converting a graph needs to know of ComfyUI's LoadImage, where there is none; binding replaces the node."""

    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"image": ([], {"image_upload": True})}}


def parse_workflow(name: str, data: bytes, node_classes: Mapping[str, type]) -> Workflow:
    """The workflow in a file's content, bound.

    Raises:
        WorkflowInvalid: it is not a workflow, or lacks a person, a garment or an output.
    """
    graph = _graph(_json(data), node_classes)
    return bind(name, hashlib.sha256(data).hexdigest()[:12], graph, node_classes)


def bind(name: str, version: str, graph: dict[str, dict], node_classes: Mapping[str, type]) -> Workflow:
    """Finds where a request's pictures and parameters go in `graph`, an API prompt.

    Raises:
        WorkflowInvalid
    """
    from ..nodes import NODE_CLASS_MAPPINGS as own_classes

    inputs: dict[str, list[str]] = {}
    for node, entry in graph.items():
        field = next((field for field, cls in INPUT_CLASSES.items() if entry["class_type"] == cls), None)
        if field is None and entry["class_type"] == "LoadImage":
            field = TITLES.get(_title(entry).strip().lower())
        if field is not None:
            inputs.setdefault(field, []).append(node)
    for field in ("person_image", "garment_image"):
        if field not in inputs:
            titles = " or ".join(repr(title) for title, bound in TITLES.items() if bound == field)
            raise WorkflowInvalid(
                f"it has no place for {field}: add a {INPUT_CLASSES[field]} node, or title a LoadImage {titles}"
            )

    from_person, from_garment, from_mask = (
        _descendants(graph, inputs.get(field, ())) for field in ("person_image", "garment_image", "mask_image")
    )
    outputs = [node for node, entry in graph.items() if entry["class_type"] == "TryOnOutput"]
    if not outputs:
        outputs = _picture_outputs(graph, from_person & from_garment)
        for node in outputs:
            pictures = graph[node]["inputs"]["images"]
            graph[node] = {**graph[node], "class_type": "TryOnOutput", "inputs": {"images": pictures}}
    if not outputs:
        raise WorkflowInvalid("it has no output that depends on both pictures: add a TryOnOutput node to the result")
    needed = _ancestors(graph, outputs)
    graph = {node: entry for node, entry in graph.items() if node in needed}
    inputs = {field: [node for node in nodes if node in graph] for field, nodes in inputs.items()}
    for field, nodes in inputs.items():
        for node in nodes:
            if graph[node]["class_type"] == "LoadImage":
                _replace_load_image(node, graph, field)

    parameters: dict[str, list[tuple[str, str]]] = {}
    for node, entry in graph.items():
        keys = _tagged(node, entry)
        if entry["class_type"] in own_classes:
            declared = own_classes[entry["class_type"]].INPUT_TYPES()
            keys |= {key for kind in ("required", "optional") for key in declared.get(kind, {})}
        for parameter, names in PARAMETERS.items():
            for key in names:
                if key in keys and not is_link(entry["inputs"].get(key)):
                    parameters.setdefault(parameter, []).append((node, key))
    return Workflow(
        name=name,
        version=version,
        graph=graph,
        inputs=inputs,
        parameters=parameters,
        outputs=outputs,
        mask_required=any("automatic" not in graph[node]["inputs"] for node in inputs.get("mask_image", ())),
        request_independent=frozenset(graph) - from_person - from_garment - from_mask,
    )


class Workflows:
    """The workflow files of a folder, as they are now; a file that is refused leaves its last good version serving.

    A file is read when it is asked for and has changed, in a thread of its own, and checked against the running engine
    before it serves.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._node_classes = ChainMap(engine.node_classes(), {"LoadImage": LoadImage})
        self._checks: dict[str, _Check] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pool = ThreadPoolExecutor(4, "workflow")

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json") if NAME.fullmatch(path.stem))

    async def get(self, name: str) -> Workflow:
        """The workflow called `name`; waits, without holding up the event loop, where its file has changed.

        Raises:
            KeyError: there is no such file.
            WorkflowInvalid: it is refused, and there is no earlier good version.
        """
        check = self._check(name)
        # shielded, because others may wait for the same check
        found = check.result() if check.done() else await asyncio.shield(asyncio.wrap_future(check))
        if found.workflow is None:
            raise WorkflowInvalid(found.problem)
        return found.workflow

    def describe(self, default: str) -> WorkflowList:
        """All of them, for people; `default` is the name of the one that serves requests that name none.

        Reads what has changed: call it off the event loop.
        """
        described = []
        for name in self.names():
            try:
                found = self._check(name).result()
            except KeyError:  # it has just been removed
                continue
            described.append(
                found.workflow.description(name == default, found.problem)
                if found.workflow
                else BoundWorkflow(name=name, default=name == default, problem=found.problem)
            )
        return WorkflowList(workflows=described)

    def publish(self, name: str, body: bytes) -> Workflow:
        """Makes the web page's open graph the workflow called `name`, if it can serve. Call it off the event loop.

        The file is the page's own graph, so that the page can open what is served. Only where that does not convert to
        the very prompt the page would queue, the prompt is the file and the graph lies in the folder `page` beside it.

        Args:
            body: JSON, `{"workflow": the graph as the page saves it, "prompt": the API prompt that it queues}`.

        Raises:
            WorkflowInvalid: nothing was written.
        """
        if not NAME.fullmatch(name):
            raise WorkflowInvalid("its name must be 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
        document = _json(body)
        if not isinstance(document, dict) or not all(isinstance(document.get(key), dict) for key in PUBLISHED):
            raise WorkflowInvalid("send a JSON object with the page's graph as workflow and its API prompt as prompt")
        page, prompt = (document[key] for key in PUBLISHED)
        files = {self._path(name): prompt, self._folder / PAGE_FOLDER / f"{name}.json": page}
        try:
            if _executed(_graph(page, self._node_classes)) == _executed(_graph(prompt, self._node_classes)):
                files = {self._path(name): page}
        except WorkflowInvalid as error:
            logger.info("Workflow %s is published as an API prompt: %s", name, error)
        contents = {path: json.dumps(content, indent=1).encode() for path, content in files.items()}
        workflow = self._checked(name, contents[self._path(name)])
        with self._writing:
            for path, content in reversed(contents.items()):
                self._write(path, content)
            if len(contents) == 1:
                self._remove_page(name)
        return workflow

    def withdraw(self, name: str) -> None:
        """Removes a workflow's files.

        Raises:
            KeyError: there is no such file.
        """
        if not NAME.fullmatch(name):
            raise KeyError(name)
        with self._writing:
            try:
                self._path(name).unlink()
            except OSError:
                raise KeyError(name) from None
            self._remove_page(name)

    def _check(self, name: str) -> "Future[_Found]":
        """What comes of reading the file as it is now.

        Raises:
            KeyError: there is no such file.
        """
        try:
            status = self._path(name).stat() if NAME.fullmatch(name) else None
        except FileNotFoundError:
            status = None
        except OSError:  # such as a link to itself; reading it says which
            status = os.stat_result((0,) * 10)
        with self._lock:
            if status is None:
                self._checks.pop(name, None)
                raise KeyError(name)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            last = self._checks.get(name)
            if last is None or last.stamp != stamp:
                before = last.found if last else None
                self._checks[name] = _Check(stamp, self._pool.submit(self._find, name, before))
            return self._checks[name].found

    def _find(self, name: str, before: "Future[_Found] | None") -> "_Found":
        try:
            workflow = self._checked(name, self._read(name))
        except WorkflowInvalid as error:
            # `before` was started earlier, so waiting for it takes nobody's thread for ever
            workflow = before.result().workflow if before else None
            serving = f"version {workflow.version} serves on" if workflow else "it does not serve"
            logger.error("Workflow %s is refused, %s: %s", name, serving, error)
            return _Found(workflow, str(error))
        logger.info("Workflow %s: version %s serves", name, workflow.version)
        return _Found(workflow, None)

    def _checked(self, name: str, data: bytes) -> Workflow:
        """The workflow in `data`, if the running engine would execute it.

        Raises:
            WorkflowInvalid
        """
        if len(data) > MAX_BYTES:
            raise WorkflowInvalid(f"it is larger than {MAX_BYTES / 1e6:g} MB")
        try:
            workflow = parse_workflow(name, data, self._node_classes)
            asyncio.run(self._engine.validate(workflow.prompt("", {}), workflow.outputs))
        except WorkflowInvalid:
            raise
        except GraphError as error:
            raise WorkflowInvalid(str(error)) from None
        except Exception as error:  # a third-party node's definition may do anything
            logger.exception("Workflow %s cannot be checked", name)
            raise WorkflowInvalid(f"checking it failed with {type(error).__name__}") from None
        return workflow

    def _read(self, name: str) -> bytes:
        try:
            path = self._path(name).resolve(strict=True)
            if not path.is_relative_to(self._folder.resolve()):
                raise WorkflowInvalid("it is a link out of the workflows folder")
            with open(path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise WorkflowInvalid("it is not a file")
                return file.read(MAX_BYTES + 1)
        except IsADirectoryError:
            raise WorkflowInvalid("it is not a file") from None
        except OSError as error:
            raise WorkflowInvalid(f"it cannot be read ({error.strerror})") from None
        except RuntimeError:  # so Path.resolve says it before Python 3.13
            raise WorkflowInvalid("it is a link to itself") from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _remove_page(self, name: str) -> None:
        page = self._folder / PAGE_FOLDER / f"{name}.json"
        if page.parent.resolve().is_relative_to(self._folder.resolve()):
            page.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        part = None
        try:
            path.parent.mkdir(exist_ok=True)
            if not path.parent.resolve().is_relative_to(self._folder.resolve()):
                raise WorkflowInvalid(f"{path.parent.name} is a link out of the workflows folder")
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
                part = Path(file.name)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
        except OSError as error:
            raise WorkflowInvalid(f"it cannot be written ({error.strerror})") from None
        finally:
            if part:
                part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Found:
    """What came of reading a file: the version that serves, and why the file as it is now does not."""

    workflow: Workflow | None
    problem: str | None


@dataclass(frozen=True)
class _Check:
    """The reading of a file in one state."""

    stamp: tuple[int, ...]
    found: Future


def _executed(graph: Mapping[str, dict]) -> dict[str, tuple]:
    """What an engine sees of `graph`: the titles that the page gives to untitled nodes are not in its saved graph."""
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in graph.items()}


def _open_at_once(path: str, flags: int) -> int:
    """An opener that does not wait for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(f"it is not JSON ({error})") from None


def _graph(document: Any, node_classes: Mapping[str, type]) -> dict[str, dict]:
    try:
        return to_prompt(document, node_classes)
    except WorkflowFormatError as error:
        raise WorkflowInvalid(str(error)) from None


def _title(entry: dict) -> str:
    return str(entry.get("_meta", {}).get("title", ""))


def _tagged(node: str, entry: dict) -> set[str]:
    """The inputs that a title ending in `[tryon: seed, steps]` gives to the request."""
    _, tag, listed = _title(entry).rstrip().rpartition(TAG)
    if not tag or not listed.endswith("]"):
        return set()
    keys = {key for part in listed[:-1].split(",") if (key := part.strip())}
    known = {key for names in PARAMETERS.values() for key in names}
    for key in sorted(keys):
        where = f"node {node} is tagged with {key[:64]!r}, which"
        if key not in known:
            raise WorkflowInvalid(f"{where} no request has; those that can be listed are {', '.join(sorted(known))}")
        if key not in entry["inputs"]:
            raise WorkflowInvalid(f"{where} it has no value for; it has {', '.join(entry['inputs'])}")
        if is_link(entry["inputs"][key]):
            raise WorkflowInvalid(f"{where} is linked; a request replaces values only, so remove the link or the tag")
    return keys


def _picture_outputs(graph: Mapping[str, dict], results: set[str]) -> list[str]:
    """The SaveImage and PreviewImage nodes among `results`, one for each picture that they show."""
    found: dict[tuple, str] = {}
    for node, entry in graph.items():
        if entry["class_type"] in PICTURE_OUTPUTS and is_link(pictures := entry["inputs"].get("images")):
            if pictures[0] in results:
                found.setdefault(tuple(pictures), node)
    return list(found.values())


def _replace_load_image(node: str, graph: dict[str, dict], field: str) -> None:
    for other, entry in graph.items():
        if [node, 1] in entry["inputs"].values():
            raise WorkflowInvalid(
                f"node {other} uses the MASK output of node {node}, which a request's picture has not: "
                "make the mask from its IMAGE output, with ImageToMask"
            )
    graph[node] = {**graph[node], "class_type": INPUT_CLASSES[field], "inputs": {"image": ""}}


def _links(entry: dict) -> list[str]:
    return [value[0] for value in entry["inputs"].values() if is_link(value)]


def _ancestors(graph: Mapping[str, dict], nodes: Sequence[str]) -> set[str]:
    """`nodes` and all that they depend on."""
    found, pending = set(), list(nodes)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        if node not in graph:
            raise WorkflowInvalid(f"it links to node {node}, which it does not have")
        found.add(node)
        pending += _links(graph[node])
    return found


def _descendants(graph: Mapping[str, dict], nodes: Sequence[str]) -> set[str]:
    """`nodes` and all that depend on them."""
    children: dict[str, list[str]] = {}
    for node, entry in graph.items():
        for link in _links(entry):
            children.setdefault(link, []).append(node)
    found, pending = set(), list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += children.get(node, ())
    return found
