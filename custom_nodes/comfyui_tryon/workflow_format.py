"""Reads a workflow in either of ComfyUI's two formats and gives the API prompt that its executor takes.

The API export names every input. The web page's own format holds nodes with positional widget values, links, and
subgraph definitions; turning it into a prompt follows what the page does when it queues a graph
(`Comfy-Org/ComfyUI_frontend`, `src/utils/executionUtil.ts` and `ExecutableNodeDTO.ts`, version 1.48). Where the page
would draw at random, run a widget's own script, or depend on a repair it makes while loading, the workflow is refused.
"""

import copy
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_NODES = 5_000  # subgraphs counted as often as they are used
MAX_LINKS = 50_000
MAX_NESTING = 32  # subgraphs within subgraphs
MAX_DEPTH = 64  # of the JSON document
MAX_VALUES = 500_000  # in the JSON document

NEVER, BYPASS = 2, 4
INPUT_PANEL, OUTPUT_PANEL = "-10", "-20"  # a subgraph's two ends, as its links name them

NOTES = frozenset({"Note", "MarkdownNote"})
WIDGET_KINDS = frozenset(
    "INT FLOAT STRING BOOLEAN COMBO COLOR COLORS CURVE RANGE BOUNDING_BOX BOUNDING_BOXES TEXTAREA MARKDOWN PAINTER "
    "COMPOSITOR CHART GALLERIA COMFY_DYNAMICCOMBO_V3".split()
)
SCRIPTED_KINDS = frozenset({"WEBCAM", "AUDIO_RECORD", "LOAD_3D", "LOAD_3D_ADVANCED", "LOAD_3D_ANIMATION"})
IMPLICIT_DEFAULTS = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
CONTROL_MODES = ("fixed", "increment", "decrement", "randomize", "increment-wrap", True, False)
SHOWS_RESULTS = frozenset({"PreviewAny", "GetImageSize", "ImageCompare"})  # their further values are of a past run
PREFIX_FILLED_BY_PAGE = re.compile(r"%date:[^%]*%|%[^%.]+\.[^%.]+%")

_ABSENT = object()


class WorkflowFormatError(ValueError):
    """A document that is no workflow, or a workflow that cannot be converted faithfully.

    `node_id` and `node_type` say which node is in the way, None where the fault is the whole document's.
    """

    def __init__(self, message: str, node_id: str | None = None, node_type: str | None = None):
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


def to_prompt(document: Any, node_classes: Mapping[str, type]) -> dict[str, dict]:
    """Convert a parsed workflow file to ComfyUI's API prompt.

    `document` is an API export (bare, or under a `prompt` or `output` key) or a graph saved by the web page;
    `node_classes` maps class names to node classes (`nodes.NODE_CLASS_MAPPINGS`), whose `INPUT_TYPES` say which inputs
    are widgets. The result is `{node id: {"class_type", "inputs", "_meta": {"title"}}}` and shares nothing with the
    document; nodes within subgraphs have ids like `12:5`. Raises WorkflowFormatError, and nothing else, when the
    document is malformed or a node in it cannot be converted.
    """
    _check_json(document)
    if not isinstance(document, dict):
        raise WorkflowFormatError("a workflow file holds a JSON object: save it again from ComfyUI's web page")
    if isinstance(document.get("nodes"), list):
        prompt = _Converter(document, node_classes).prompt()
    else:
        prompt = _normalised_api_prompt(document, node_classes)
    _check_prompt_links(prompt, node_classes)
    return prompt


def _check_json(document: Any) -> None:
    """Refuse what no JSON file holds, and files deeper or larger than any workflow."""
    count = 0
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise WorkflowFormatError(f"the file is nested more than {MAX_DEPTH} levels deep: no workflow is")
        if count > MAX_VALUES:
            raise WorkflowFormatError(f"the file holds more than {MAX_VALUES} values: no workflow does")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise WorkflowFormatError("the file has an object key that is not a string: it is not JSON")
            pending.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            pending.extend((child, depth + 1) for child in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise WorkflowFormatError("the file holds a number that is not finite: it is not JSON")
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise WorkflowFormatError(f"the file holds a {type(value).__name__}: it is not JSON")


def _shown(text: Any) -> str:
    """Text from the file, safe and short enough for a message."""
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _label(node_id: str, node_type: str | None, title: str | None = None) -> str:
    named = f" {_shown(title)}" if title and title != node_type else ""
    return f"node {_shown(node_id)[1:-1]} ({_shown(node_type)[1:-1]}{named})" if node_type else f"node {node_id!r:.80}"


# The API format


def _normalised_api_prompt(document: dict, node_classes: Mapping[str, type]) -> dict[str, dict]:
    for wrapper in ("prompt", "output"):
        inner = document.get(wrapper)
        if isinstance(inner, dict) and "class_type" not in inner:
            document = inner
            break
    if not document:
        raise WorkflowFormatError("the workflow is empty: add nodes and save it again")
    if len(document) > MAX_NODES:
        raise WorkflowFormatError(f"the workflow has {len(document)} nodes, more than {MAX_NODES}")
    prompt = {}
    for node_id, node in document.items():
        if not isinstance(node, dict) or "class_type" not in node:
            raise WorkflowFormatError(
                f"entry {_shown(node_id)} is no node: expected a graph saved by ComfyUI's web page (with a `nodes` "
                'list) or an API export ({"<id>": {"class_type": …, "inputs": …}, …})',
                node_id,
            )
        class_type, inputs, meta = node["class_type"], node.get("inputs", {}), node.get("_meta")
        if not isinstance(class_type, str):
            raise WorkflowFormatError(f"{_label(node_id, None)}: class_type must be a string", node_id)
        if not isinstance(inputs, dict):
            raise WorkflowFormatError(f"{_label(node_id, class_type)}: inputs must be an object", node_id, class_type)
        title = meta.get("title") if isinstance(meta, dict) else None
        title = title if isinstance(title, str) else class_type
        if class_type not in node_classes:
            raise _unknown_class(node_id, class_type, title)
        prompt[node_id] = {
            "class_type": class_type,
            "inputs": {name: _api_input(value, name, node_id, class_type) for name, value in inputs.items()},
            "_meta": {"title": title},
        }
    return prompt


def _api_input(value: Any, name: str, node_id: str, class_type: str) -> Any:
    if not isinstance(value, list):
        return copy.deepcopy(value)
    if len(value) == 2 and _is_id(value[0]) and _is_int(value[1]):
        return [str(value[0]), value[1]]
    raise WorkflowFormatError(
        f"{_label(node_id, class_type)}: input {_shown(name)} is a list but no link: a link is "
        '["<node id>", <output number>], a list value is {"__value__": [...]}',
        node_id,
        class_type,
    )


def _unknown_class(node_id: str, node_type: str, title: str | None) -> WorkflowFormatError:
    if re.match("workflow[>/]", node_type):
        advice = "a legacy group node: open the workflow in ComfyUI's web page, turn it into a subgraph and save again"
    elif re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", node_type):
        advice = "a subgraph whose definition is not in the file: save the whole workflow again from the web page"
    else:
        advice = "this ComfyUI has no node class of that name: install the pack it comes from, or remove the node"
    return WorkflowFormatError(f"{_label(node_id, node_type, title)}: {advice}", node_id, node_type)


def _check_prompt_links(prompt: dict[str, dict], node_classes: Mapping[str, type]) -> None:
    """Every link leads to an output that exists, and no node depends on itself."""
    consumers: dict[str, list[str]] = {node_id: [] for node_id in prompt}
    waiting = dict.fromkeys(prompt, 0)
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                continue
            origin, slot = value
            where = f"{_label(node_id, node['class_type'], node['_meta']['title'])}: input {_shown(name)}"
            if origin not in prompt:
                raise WorkflowFormatError(
                    f"{where} is linked to node {_shown(origin)}, which is not there: connect it again",
                    node_id,
                    node["class_type"],
                )
            if not _has_output(node_classes[prompt[origin]["class_type"]], slot):
                raise WorkflowFormatError(
                    f"{where} is linked to output {slot} of {_label(origin, prompt[origin]['class_type'])}, which has "
                    "no such output: connect it again",
                    node_id,
                    node["class_type"],
                )
            consumers[origin].append(node_id)
            waiting[node_id] += 1
    ready = [node_id for node_id, count in waiting.items() if not count]
    while ready:
        for consumer in consumers[ready.pop()]:
            waiting[consumer] -= 1
            if not waiting[consumer]:
                ready.append(consumer)
    for node_id, count in waiting.items():
        if count:
            class_type = prompt[node_id]["class_type"]
            label = _label(node_id, class_type, prompt[node_id]["_meta"]["title"])
            raise WorkflowFormatError(
                f"{label} is in, or depends on, a loop of links: remove one of them", node_id, class_type
            )


def _has_output(node_class: type, slot: int) -> bool:
    try:
        node_class.RETURN_TYPES[slot]
    except Exception:  # third-party: RETURN_TYPES may be any object with __getitem__
        return False
    return slot >= 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, str) and value != "")


# The web page's format, as it lies in the file


@dataclass(eq=False)
class _Slot:
    name: str
    type: str
    link: int | None = None
    widget: bool = False


@dataclass(frozen=True)
class _Link:
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(eq=False)
class _Node:
    id: str
    type: str
    title: str | None
    mode: int
    inputs: list[_Slot]
    outputs: list[str]
    values: list | dict
    properties: dict

    def error(self, what: str) -> WorkflowFormatError:
        return WorkflowFormatError(f"{_label(self.id, self.type, self.title)}: {what}", self.id, self.type)

    @property
    def active(self) -> bool:
        return self.mode not in (NEVER, BYPASS)


@dataclass(eq=False)
class _Graph:
    """The root graph, or a subgraph's definition."""

    name: str
    nodes: dict[str, _Node]
    links: dict[int, _Link]
    inputs: list[_Slot] = field(default_factory=list)
    outputs: list[_Slot] = field(default_factory=list)
    input_targets: list[list[tuple[_Node, _Slot]]] = field(default_factory=list)


def _items(raw: Mapping, key: str, where: str, kind: type = dict) -> Iterator[Any]:
    """The members of the list raw[key], each checked to be of `kind`; nothing where it is missing or null."""
    members = raw.get(key)
    if members is None:
        return
    if not isinstance(members, list):
        raise WorkflowFormatError(f"{where}: `{key}` must be a list")
    for member in members:
        if not isinstance(member, kind):
            raise WorkflowFormatError(f"{where}: `{key}` has a member of the wrong type ({_shown(member)})")
        yield member


def _slot_type(raw: Any) -> str:
    if isinstance(raw, list):
        return "COMBO"
    return str(raw) if isinstance(raw, (str, int)) and raw not in ("", 0) else "*"


def _parse_slot(raw: dict, where: str) -> _Slot:
    name, link, widget = raw.get("name"), raw.get("link"), raw.get("widget")
    if not isinstance(name, str):
        raise WorkflowFormatError(f"{where}: an input or output has no name")
    if link is not None and not _is_int(link):
        raise WorkflowFormatError(f"{where}: input {_shown(name)} has a link that is not a number")
    return _Slot(name, _slot_type(raw.get("type")), link, isinstance(widget, dict))


def _parse_node(raw: dict, where: str) -> _Node:
    node_id, node_type = raw.get("id"), raw.get("type")
    if not _is_id(node_id):
        raise WorkflowFormatError(f"{where}: a node's id must be a number or a string, not {_shown(node_id)}")
    if not isinstance(node_type, str) or not node_type:
        raise WorkflowFormatError(f"{where}: {_label(str(node_id), None)} has no type", str(node_id))
    title, mode, values = raw.get("title"), raw.get("mode", 0), raw.get("widgets_values")
    properties = raw.get("properties")
    node = _Node(
        id=str(node_id),
        type=node_type,
        title=title if isinstance(title, str) else None,
        mode=mode if _is_int(mode) else 0,
        inputs=[],
        outputs=[],
        values=[] if values is None else values,
        properties=properties if isinstance(properties, dict) else {},
    )
    if not _is_int(mode):
        raise node.error(f"mode must be a number, not {_shown(mode)}")
    if not isinstance(node.values, (list, dict)):
        raise node.error("widgets_values must be a list or an object")
    label = _label(node.id, node.type, node.title)
    try:
        node.inputs = [_parse_slot(slot, label) for slot in _items(raw, "inputs", label)]
        node.outputs = [_slot_type(slot.get("type")) for slot in _items(raw, "outputs", label)]
    except WorkflowFormatError as error:
        raise WorkflowFormatError(str(error), node.id, node.type) from None
    return node


def _parse_link(raw: list | dict, where: str) -> tuple[int, _Link]:
    if isinstance(raw, list):
        fields = raw[:5]
    else:
        fields = [raw.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    if len(fields) < 5 or not _is_id(fields[1]) or not _is_id(fields[3]) or not all(map(_is_int, fields[::2])):
        raise WorkflowFormatError(
            f"{where}: a link must have a number, an origin and a target node with slot numbers, not {_shown(raw)}"
        )
    return fields[0], _Link(str(fields[1]), fields[2], str(fields[3]), fields[4])


def _parse_graph(raw: dict, where: str) -> _Graph:
    nodes: dict[str, _Node] = {}
    for raw_node in _items(raw, "nodes", where):
        node = _parse_node(raw_node, where)
        if node.id in nodes:
            raise node.error("another node has the same id: open the workflow in the web page and save it again")
        nodes[node.id] = node
    links: dict[int, _Link] = {}
    for raw_link in _items(raw, "links", where, (list, dict)):
        link_id, link = _parse_link(raw_link, where)
        if links.setdefault(link_id, link) != link:
            raise WorkflowFormatError(f"{where}: two links have the number {link_id}")
    if len(nodes) > MAX_NODES or len(links) > MAX_LINKS:
        raise WorkflowFormatError(f"{where} has more than {MAX_NODES} nodes or {MAX_LINKS} links")
    graph = _Graph(where, nodes, links)
    for key, slots in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        slots.extend(_parse_slot(slot | {"link": None}, where) for slot in _items(raw, key, where))
    _check_links(graph)
    _find_subgraph_ends(graph, raw)
    return graph


def _check_links(graph: _Graph) -> None:
    for node in graph.nodes.values():
        for slot in node.inputs:
            if slot.link is None:
                continue
            link = graph.links.get(slot.link)
            if link is None or link.target != node.id:
                raise node.error(f"input {_shown(slot.name)} names link {slot.link}, which does not lead there")
            if link.origin == INPUT_PANEL and INPUT_PANEL not in graph.nodes:
                if not 0 <= link.origin_slot < len(graph.inputs):
                    raise node.error(f"input {_shown(slot.name)} is linked to a subgraph input that does not exist")
            elif link.origin not in graph.nodes:
                raise node.error(
                    f"input {_shown(slot.name)} is linked to node {_shown(link.origin)}, which is not there: connect "
                    "it again"
                )


def _find_subgraph_ends(graph: _Graph, raw: dict) -> None:
    """Note which inner inputs each subgraph input feeds, in the file's order, and which link feeds each output."""
    claimed = {slot.link: (node, slot) for node in graph.nodes.values() for slot in node.inputs if slot.link is not None}
    order: dict[int, int] = {}
    for raw_input in _items(raw, "inputs", graph.name):
        for link_id in raw_input.get("linkIds") or []:
            order.setdefault(link_id if _is_int(link_id) else -1, len(order))
    graph.input_targets = [[] for _ in graph.inputs]
    for link_id in sorted(graph.links, key=lambda link_id: order.get(link_id, len(order))):
        link = graph.links[link_id]
        if link.origin == INPUT_PANEL and link_id in claimed and 0 <= link.origin_slot < len(graph.inputs):
            graph.input_targets[link.origin_slot].append(claimed[link_id])
        if link.target == OUTPUT_PANEL and 0 <= link.target_slot < len(graph.outputs):
            output = graph.outputs[link.target_slot]
            if output.link is not None:
                raise WorkflowFormatError(f"{graph.name}: two links lead to the output {_shown(output.name)}")
            if link.origin not in graph.nodes and link.origin != INPUT_PANEL:
                raise WorkflowFormatError(f"{graph.name}: the output {_shown(output.name)} is linked to no node")
            output.link = link_id


def _parse_definitions(document: dict) -> dict[str, _Graph]:
    definitions: dict[str, _Graph] = {}
    holders = [document]
    while holders:
        inner = holders.pop().get("definitions")
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise WorkflowFormatError("`definitions` must be an object")
        for raw in _items(inner, "subgraphs", "definitions"):
            key = raw.get("id")
            if not isinstance(key, str) or not key or key in definitions:
                raise WorkflowFormatError(f"a subgraph definition has no id of its own ({_shown(key)})")
            definitions[key] = _parse_graph(raw, f"subgraph {_shown(raw.get('name') or key)}")
            holders.append(raw)
    return definitions


# Widgets: which inputs of a class have a saved value, and where it lies


@dataclass(frozen=True)
class _Input:
    """One entry of INPUT_TYPES."""

    name: str
    type: str
    options: Mapping
    choices: tuple
    required: bool

    @property
    def widget_kind(self) -> str:
        return self.options.get("widgetType") or self.type

    @property
    def is_widget(self) -> bool:
        kind = self.widget_kind
        return not self.options.get("forceInput") and (kind in WIDGET_KINDS or kind in SCRIPTED_KINDS)

    @property
    def controlled(self) -> bool:
        control = self.options.get("control_after_generate")
        if control is None and self.widget_kind == "INT":
            return self.name in ("seed", "noise_seed")
        return bool(control) and self.widget_kind in ("INT", "FLOAT", "COMBO")

    def fits(self, value: Any) -> bool:
        kind = self.widget_kind
        if kind == "INT":
            return _is_int(value) or (isinstance(value, float) and value.is_integer())
        if kind == "FLOAT":
            return _is_int(value) or isinstance(value, float)
        if kind in ("STRING", "TEXTAREA", "MARKDOWN", "COLOR", "PAINTER"):
            return isinstance(value, str)
        if kind == "BOOLEAN":
            return isinstance(value, bool)
        if kind == "COMBO":
            return value is not None and (isinstance(value, list) == bool(self.multiple))
        return value is not None

    @property
    def multiple(self) -> bool:
        return bool(self.options.get("multi_select") or self.options.get("multiselect"))

    def default(self) -> Any:
        """What the page shows when a file has no value for the widget; _ABSENT where that would be a guess."""
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMFY_DYNAMICCOMBO_V3":
            return self.choices[0] if self.choices else _ABSENT
        if self.required:
            return _ABSENT
        if self.widget_kind == "COMBO" and not self.multiple:
            return self.choices[0] if self.choices else _ABSENT
        return IMPLICIT_DEFAULTS.get(self.widget_kind, _ABSENT)


def _inputs(spec: Any, prefix: str = "") -> list[_Input]:
    """The inputs of an INPUT_TYPES dict in the order in which the page makes their widgets."""
    found = []
    for category in ("required", "optional"):
        for name, entry in ((spec or {}).get(category) or {}).items():
            if not isinstance(entry, (tuple, list)) or not entry:
                continue
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
            if isinstance(entry[0], (list, tuple)):
                kind, choices = "COMBO", tuple(entry[0])
            else:
                kind, choices = str(entry[0]), tuple(options.get("options") or ())
            if kind == "COMFY_DYNAMICCOMBO_V3":
                choices = tuple(choice["key"] for choice in choices)
            found.append(_Input(f"{prefix}{name}", kind, options, choices, category == "required"))
    return found


def _selected_inputs(combo: _Input, choice: Any) -> list[_Input]:
    for option in combo.options.get("options") or ():
        if option["key"] == choice:
            return _inputs(option["inputs"], f"{combo.name}.")
    return []


class _SavedValues:
    """Takes a node's widgets_values in the order in which the page makes the widgets."""

    def __init__(self, node: _Node):
        self.node = node
        self.by_name = node.values if isinstance(node.values, dict) else None
        self.rest = [] if self.by_name is not None else list(reversed(node.values))
        self.missing: list[_Input] = []

    def take(self, spec: _Input) -> Any:
        if self.by_name is not None:
            value = self.by_name.get(spec.name, _ABSENT)
        else:
            value = self.rest.pop() if self.rest else _ABSENT
        if value is _ABSENT:
            self.missing.append(spec)
            return spec.default()
        if not spec.fits(value):
            raise self.node.error(
                f"the saved value {_shown(value)} does not fit the widget {_shown(spec.name)} ({spec.widget_kind}): "
                "the node has changed since the workflow was saved, or the file was edited; open it in the web page, "
                "check the node's values and save it again"
            )
        return value

    def skip(self, allowed: Callable[[Any], bool] = lambda value: True) -> None:
        """Pass over a value that the page saves but never sends."""
        if self.rest and not allowed(self.rest[-1]):
            raise self.node.error(
                f"expected the saved setting of a helper widget, not {_shown(self.rest[-1])}: the node has changed "
                "since the workflow was saved; open it in the web page, check its values and save it again"
            )
        if self.rest:
            self.rest.pop()

    def read(self, inputs: Iterable[_Input], values: dict[str, Any]) -> None:
        for spec in inputs:
            if not spec.is_widget:
                continue
            kind = spec.widget_kind
            if kind == "LOAD_3D" and "model_file" in values:
                for _ in range(3):
                    self.skip()
            values[spec.name] = self.take(spec)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                self.read(_selected_inputs(spec, values[spec.name]), values)
            elif kind == "BOUNDING_BOX":
                for _ in range(4):
                    self.skip()
            remote = spec.options.get("remote") if kind == "COMBO" else None
            for _ in range(0 if not remote else 2 if remote.get("refresh_button") else 1):
                self.skip()
            if spec.controlled:
                self.skip(lambda value: value in CONTROL_MODES)
                if kind == "COMBO" and not spec.multiple:
                    self.skip(lambda value: isinstance(value, str))

    @property
    def exact(self) -> bool:
        return not self.missing and not self.rest

    @property
    def acceptable(self) -> bool:
        """Short by widgets that have a default, or long by nothing but display widgets."""
        shows_results = self.node.type in SHOWS_RESULTS
        return all(spec.default() is not _ABSENT or not spec.required for spec in self.missing) and (
            shows_results or all(value in (None, "") for value in self.rest)
        )


class _WidgetReader:
    def __init__(self, node_classes: Mapping[str, type]):
        self.node_classes = node_classes
        self._inputs: dict[str, list[_Input]] = {}
        self._values: dict[_Node, dict[str, Any]] = {}

    def inputs_of(self, node: _Node) -> list[_Input]:
        if node.type not in self._inputs:
            if node.type not in self.node_classes:
                raise _unknown_class(node.id, node.type, node.title)
            try:
                self._inputs[node.type] = _inputs(self.node_classes[node.type].INPUT_TYPES())
            except Exception as error:  # third-party code
                raise node.error(f"its INPUT_TYPES cannot be read ({type(error).__name__})") from error
        return self._inputs[node.type]

    def values_of(self, node: _Node) -> dict[str, Any]:
        """Widget name to saved value, in the definition (before promoted widgets and primitives)."""
        if node not in self._values:
            self._values[node] = self._read(node)
        return self._values[node]

    def _read(self, node: _Node) -> dict[str, Any]:
        inputs = self.inputs_of(node)
        custom = {slot.name for slot in node.inputs if slot.widget} - {spec.name for spec in inputs if spec.is_widget}
        accepted: dict[str, Any] | None = None
        fault: WorkflowFormatError | None = None
        for layout in self._layouts(node, inputs, custom):
            saved, values = _SavedValues(node), {}
            try:
                layout(saved, values)
            except WorkflowFormatError as error:
                fault = fault or error
                continue
            if saved.exact:
                return values
            if saved.acceptable and accepted is None:
                accepted = {name: value for name, value in values.items() if value is not _ABSENT}
            fault = fault or self._misfit(saved)
        if accepted is None:
            raise fault
        return accepted

    @staticmethod
    def _misfit(saved: _SavedValues) -> WorkflowFormatError:
        if saved.rest:
            detail = f"{len(saved.rest)} more than the node has widgets for, the last {_shown(saved.rest[0])}"
        else:
            detail = "none for " + ", ".join(_shown(spec.name) for spec in saved.missing[:5])
        return saved.node.error(
            f"the file holds {len(saved.node.values)} widget values, {detail}: the node has changed since the "
            "workflow was saved, or draws widgets by a script; open it in the web page, check its values and save it "
            "again, or export it in the API format"
        )

    def _layouts(self, node: _Node, inputs: list[_Input], custom: set[str]) -> Iterator[Callable]:
        """The orders in which page versions have saved a node's values, the present one first."""
        uploads = any(
            spec.widget_kind == "COMBO" and any(spec.options.get(key) is True for key in UPLOAD_OPTIONS)
            for spec in inputs
            if spec.required
        ) or any(spec.name == "audio" and spec.options.get("audio_upload") for spec in inputs)
        required = [spec for spec in inputs if spec.required]
        optional = [spec for spec in inputs if not spec.required]

        def present(saved: _SavedValues, values: dict) -> None:
            saved.read(inputs, values)
            if uploads:
                saved.skip()
            if node.type == "CustomCombo":  # its options are widgets of the page's own making
                values.update(zip(_custom_combo_names(), reversed(saved.rest)))
                saved.rest.clear()

        def upload_before_optional(saved: _SavedValues, values: dict) -> None:
            saved.read(required, values)
            saved.skip()
            saved.read(optional, values)

        def with_forced_inputs(saved: _SavedValues, values: dict) -> None:
            for spec in inputs:
                if spec.options.get("forceInput"):
                    saved.skip()
                else:
                    saved.read([spec], values)
            if uploads:
                saved.skip()

        def with_custom_widgets(saved: _SavedValues, values: dict) -> None:
            for spec in inputs:
                if spec.name in custom and not spec.is_widget:
                    values[spec.name] = saved.take(spec)
                else:
                    saved.read([spec], values)
            if uploads:
                saved.skip()

        yield present
        if uploads and optional:
            yield upload_before_optional
        if any(spec.options.get("forceInput") for spec in inputs):
            yield with_forced_inputs
        if custom:
            yield with_custom_widgets


UPLOAD_OPTIONS = ("image_upload", "video_upload", "animated_image_upload")


def _custom_combo_names() -> Iterator[str]:
    yield "index"
    number = 0
    while True:
        number += 1
        yield f"option{number}"


# Conversion


@dataclass(eq=False)
class _Scope:
    """One use of a graph: the root, or a subgraph definition placed by `host`."""

    graph: _Graph
    prefix: str = ""
    parent: "_Scope | None" = None
    host: _Node | None = None
    depth: int = 0
    children: dict[str, "_Scope"] = field(default_factory=dict)
    overrides: dict[tuple[str, str], Any] = field(default_factory=dict)  # (inner node, widget) to promoted value
    host_values: dict[int, Any] = field(default_factory=dict)  # subgraph input to the value of its promoted widget


@dataclass(frozen=True)
class _Output:
    node_id: str
    slot: int


@dataclass(frozen=True)
class _Value:
    value: Any
    primitive: _Node | None = None


class _Converter:
    def __init__(self, document: dict, node_classes: Mapping[str, type]):
        extra = document.get("extra")
        if isinstance(extra, dict) and extra.get("ue_links"):
            raise WorkflowFormatError(
                "the workflow has links that the Use Everywhere pack makes in the browser: turn them into real links "
                "(its menu offers that) or export the workflow in the API format"
            )
        self.node_classes = node_classes
        self.widgets = _WidgetReader(node_classes)
        self.definitions = _parse_definitions(document)
        # A root graph has no ends of its own; `inputs`/`outputs` keys there mean nothing.
        root = {key: document.get(key) for key in ("nodes", "links")}
        self.root = _Scope(_parse_graph(root, "the workflow"))
        self._resolved: dict[Hashable, _Output | _Value | None] = {}
        self._slots: dict[_Node, list[_Slot]] = {}
        self._promoted: dict[_Node, dict[int, Any]] = {}

    def prompt(self) -> dict[str, dict]:
        prompt: dict[str, dict] = {}
        for scope in self._scopes():
            for node in scope.graph.nodes.values():
                if node.active and not self._is_virtual(node):
                    node_id = scope.prefix + node.id
                    if node_id in prompt:
                        raise node.error(f"two nodes would get the id {node_id}: give one of them another id")
                    prompt[node_id] = self._convert(scope, node)
        if not prompt:
            raise WorkflowFormatError("the workflow has no active node: add nodes, or unmute them, and save it again")
        return prompt

    def _is_virtual(self, node: _Node) -> bool:
        return node.type in self.definitions or node.type in NOTES or node.type in ("Reroute", "PrimitiveNode")

    def _scopes(self) -> Iterator[_Scope]:
        count = 0
        pending = [self.root]
        while pending:
            scope = pending.pop()
            count += len(scope.graph.nodes)
            if count > MAX_NODES:
                raise WorkflowFormatError(f"the workflow has more than {MAX_NODES} nodes with its subgraphs expanded")
            for node in scope.graph.nodes.values():
                if node.type in self.definitions and node.active:
                    pending.append(self._enter(scope, node))
            yield scope

    def _enter(self, parent: _Scope, host: _Node) -> _Scope:
        graph = self.definitions[host.type]
        ancestor: _Scope | None = parent
        while ancestor is not None:
            if ancestor.graph is graph:
                raise host.error("the subgraph contains itself: remove one of the two")
            ancestor = ancestor.parent
        if parent.depth >= MAX_NESTING:
            raise host.error(f"subgraphs are nested more than {MAX_NESTING} deep")
        scope = _Scope(graph, f"{parent.prefix}{host.id}:", parent, host, parent.depth + 1)
        scope.host_values = dict(self._host_values(host))
        for name, value in self._promotions(host):
            self._promote(scope, name, value)
        for (node_id, name), value in parent.overrides.items():
            if node_id == host.id:
                self._promote(scope, (INPUT_PANEL, name), value)
        parent.children[host.id] = scope
        return scope

    # Promoted widgets: values that a subgraph node holds for widgets inside it

    def _promotions(self, host: _Node) -> list[tuple[tuple[str, str], Any]]:
        """((inner node id, widget name), value) of the proxyWidgets that have a value of their own."""
        entries = host.properties.get("proxyWidgets")
        quarantined = host.properties.get("proxyWidgetErrorQuarantine")
        if not entries:
            return [
                (("-1", entry["originalEntry"][1]), entry["hostValue"])
                for entry in (quarantined if isinstance(quarantined, list) else [])
                if isinstance(entry, dict)
                and entry.get("hostValue") is not None
                and isinstance(entry.get("originalEntry"), list)
                and len(entry["originalEntry"]) >= 2
                and entry["originalEntry"][0] == "-1"
                and isinstance(entry["originalEntry"][1], str)
            ]
        if not isinstance(entries, list) or not isinstance(host.values, list):
            raise host.error("proxyWidgets and widgets_values must be lists")
        promotions = []
        for entry, value in zip(entries, host.values):
            if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(part, str) for part in entry):
                raise host.error(f"the promoted widget {_shown(entry)} is no pair of node id and widget name")
            if value is not None and not entry[1].startswith("$$"):
                promotions.append(((entry[0], entry[1]), value))
        return promotions

    def _promote(self, scope: _Scope, source: tuple[str, str], value: Any) -> None:
        node_id, name = source
        for index, slot in enumerate(scope.graph.inputs):
            target = self._first_widget(scope.graph, index)
            if target is None:
                continue
            by_source = target[0].id == node_id and target[1].name == name
            if by_source or (node_id in ("-1", INPUT_PANEL) and slot.name == name):
                scope.host_values[index] = value
                return
        inner = scope.graph.nodes.get(node_id)
        if inner is None or (not self._is_virtual(inner) and name not in self.widgets.values_of(inner)):
            raise scope.host.error(
                f"it holds a value for the widget {_shown(name)} of inner node {_shown(node_id)}, which is not there: "
                "open the workflow in the web page, check the node's values and save it again"
            )
        if any(slot.name == name and slot.link is not None for slot in inner.inputs):
            raise scope.host.error(
                f"it holds a value for the widget {_shown(name)} of inner node {_shown(node_id)}, which is linked as "
                "well: remove one of the two"
            )
        scope.overrides[source] = value

    def _first_widget(self, graph: _Graph, index: int) -> tuple[_Node, _Slot] | None:
        """The inner input whose widget stands for a subgraph input, None where all it feeds are sockets."""
        for node, slot in graph.input_targets[index]:
            if node.type in self.definitions:
                if self._host_index(node, slot) in self._host_values(node):
                    return node, slot
            elif node.type in self.node_classes and slot.name in self.widgets.values_of(node):
                return node, slot
        return None

    def _host_index(self, host: _Node, slot: _Slot) -> int:
        for index, candidate in enumerate(self.definitions[host.type].inputs):
            if candidate.name == slot.name:
                return index
        raise host.error(f"its input {_shown(slot.name)} is not in the subgraph's definition: connect it again")

    def _host_values(self, host: _Node) -> dict[int, Any]:
        """Subgraph input number to widget value, for the inputs that stand for a widget."""
        if host in self._promoted:
            if self._promoted[host] is None:
                raise host.error("the subgraph contains itself: remove one of the two")
            return self._promoted[host]
        self._promoted[host] = None
        graph = self.definitions[host.type]
        values: dict[int, Any] = {}
        for index in range(len(graph.inputs)):
            target = self._first_widget(graph, index)
            if target is None:
                continue
            node, slot = target
            if node.type in self.definitions:
                values[index] = self._host_values(node)[self._host_index(node, slot)]
            else:
                values[index] = self.widgets.values_of(node)[slot.name]
        if not host.properties.get("proxyWidgets"):
            if not isinstance(host.values, list) or len(host.values) > len(values):
                raise host.error(
                    f"the file holds {len(host.values)} widget values for {len(values)} promoted widgets: open the "
                    "workflow in the web page, check the node's values and save it again"
                )
            for index, value in zip(values, host.values):
                if value is not None:
                    values[index] = value
        self._promoted[host] = values
        return values

    # Links

    def _resolve(self, scope: _Scope, node: _Node, slot: _Slot) -> _Output | _Value | None:
        """What feeds an input once reroutes, bypassed nodes and subgraph ends are passed through."""
        state: tuple = ("input", scope, node, slot, None)
        passed: dict[Hashable, None] = {}
        while True:
            if state in self._resolved:
                result = self._resolved[state]
                break
            if state in passed:
                raise state[2].error("its links lead in a circle: remove one of them")
            passed[state] = None
            step = self._step(*state)
            if not isinstance(step, tuple):
                result = step
                break
            state = step
        for state in passed:
            self._resolved[state] = result
        return result

    def _step(self, kind: str, scope: _Scope, node: _Node, slot: Any, wanted: str | None) -> Any:
        """One step towards a link's origin: the next state, or _Output, _Value or None at its end."""
        if kind == "input":
            if slot.link is None:
                return None
            link = scope.graph.links[slot.link]
            if link.origin == INPUT_PANEL and scope.host is not None:
                return self._outwards(scope, link.origin_slot)
            return "output", scope, scope.graph.nodes[link.origin], link.origin_slot, wanted or slot.type
        if node.type == "PrimitiveNode":
            return _Value(self._primitive_value(scope, node), node)
        if node.mode == NEVER or node.type in NOTES:
            return None
        if node.mode == BYPASS:
            through = self._bypass_slot(node, slot, wanted)
            return None if through is None else ("input", scope, node, through, None)
        if node.type == "Reroute":
            return ("input", scope, node, node.inputs[0], wanted) if node.inputs else None
        if node.type in self.definitions:
            inner = scope.children[node.id]
            if not 0 <= slot < len(inner.graph.outputs):
                raise node.error(f"a link starts at output {slot}, which the subgraph does not have: connect it again")
            link_id = inner.graph.outputs[slot].link
            if link_id is None:
                return None
            link = inner.graph.links[link_id]
            if link.origin == INPUT_PANEL and INPUT_PANEL not in inner.graph.nodes:
                return self._outwards(inner, link.origin_slot)
            return "output", inner, inner.graph.nodes[link.origin], link.origin_slot, wanted
        return _Output(scope.prefix + node.id, slot)

    def _outwards(self, scope: _Scope, index: int) -> Any:
        if not 0 <= index < len(scope.graph.inputs):
            raise scope.host.error(f"the subgraph has no input {index}: connect its inner nodes again")
        slot = self._host_slots(scope.host)[index]
        if slot.link is not None:
            return "input", scope.parent, scope.host, slot, None
        return _Value(scope.host_values[index]) if index in scope.host_values else None

    def _host_slots(self, host: _Node) -> list[_Slot]:
        """A subgraph node's inputs in its definition's order, with the links the node itself holds."""
        if host not in self._slots:
            slots = [_Slot(slot.name, slot.type) for slot in self.definitions[host.type].inputs]
            for own in host.inputs:
                if own.link is not None:
                    slots[self._host_index(host, own)].link = own.link
            self._slots[host] = slots
        return self._slots[host]

    def _bypass_slot(self, node: _Node, output: int, wanted: str) -> _Slot | None:
        """The input that a bypassed node passes on: the one beside the output if its type fits, else the first."""
        slots, output_type = self._typed_slots(node), self._output_type(node, output)
        if wanted == "*":
            return slots[output if len(slots) > output else 0] if slots else None

        def fits(slot: _Slot) -> bool:
            return _compatible(slot.type, output_type) and _compatible(slot.type, wanted)

        if 0 <= output < len(slots) and fits(slots[output]):
            return slots[output]
        same_type = (slot for slot in slots if slot.type == wanted)
        return next(same_type, None) or next(filter(fits, slots), None)

    def _typed_slots(self, node: _Node) -> list[_Slot]:
        """A bypassed node's inputs as the page orders them: sockets, then widgets, then what only the file has."""
        if node.type in self.definitions:
            return self._host_slots(node)
        if node.type not in self.node_classes:
            return node.inputs
        if node not in self._slots:
            own = {slot.name: slot for slot in node.inputs}
            specs = [spec for spec in self.widgets.inputs_of(node) if spec.type != "COMFY_AUTOGROW_V3"]
            ordered = [spec for spec in specs if not spec.is_widget]
            ordered += [spec for spec in specs if spec.is_widget and not spec.options.get("socketless")]
            slots = []
            for spec in ordered:
                saved = own.pop(spec.name, None)
                dynamic = saved is not None and spec.type.startswith("COMFY_")
                slots.append(_Slot(spec.name, saved.type if dynamic else spec.type, saved.link if saved else None))
            self._slots[node] = slots + [slot for slot in node.inputs if slot.name in own]
        return self._slots[node]

    def _output_type(self, node: _Node, output: int) -> str:
        if node.type in self.definitions:
            outputs = [slot.type for slot in self.definitions[node.type].outputs]
            return outputs[output] if 0 <= output < len(outputs) else "*"
        saved = node.outputs[output] if 0 <= output < len(node.outputs) else "*"
        node_class = self.node_classes.get(node.type)
        if node_class is None or not _has_output(node_class, output):
            return saved
        declared = _slot_type(node_class.RETURN_TYPES[output])
        return saved if declared.startswith("COMFY_") else declared

    def _primitive_value(self, scope: _Scope, node: _Node) -> Any:
        overridden = [value for (node_id, _), value in scope.overrides.items() if node_id == node.id]
        if overridden:
            return overridden[0]
        if not isinstance(node.values, list) or not node.values:
            raise node.error("it has no saved value: set it in the web page and save the workflow again")
        value = node.values[0]
        if node.properties.get("Run widget replace on values") and isinstance(value, str) and "%" in value:
            raise node.error("its text is filled in by the page when it queues: write the plain text instead")
        return value

    # Nodes

    def _convert(self, scope: _Scope, node: _Node) -> dict:
        specs = {spec.name: spec for spec in self.widgets.inputs_of(node)}
        values = dict(self.widgets.values_of(node))
        values.update((name, value) for (owner, name), value in scope.overrides.items() if owner == node.id)
        inputs: dict[str, Any] = {}
        linked = {slot.name: self._resolve(scope, node, slot) for slot in node.inputs if slot.link is not None}
        for name, value in values.items():
            source = linked.get(name)
            if isinstance(source, _Value) and source.primitive is not None and self._is_direct(scope, node, name):
                value = source.value
            elif isinstance(source, (_Output, _Value)):
                continue
            inputs[name] = _wrapped(self._sent(node, specs.get(name), name, value), specs.get(name))
        for slot in node.inputs:
            source = linked.get(slot.name)
            if slot.widget and slot.link is not None and slot.name not in values and slot.name not in specs:
                raise node.error(f"the linked widget {_shown(slot.name)} does not exist any more: remove the link")
            if isinstance(source, _Output):
                inputs[slot.name] = [source.node_id, source.slot]
            elif isinstance(source, _Value) and slot.name not in inputs:
                if source.primitive is not None:
                    self._check_primitive(node, slot, source, values)
                inputs[slot.name] = _wrapped(source.value, specs.get(slot.name))
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}

    @staticmethod
    def _is_direct(scope: _Scope, node: _Node, name: str) -> bool:
        link = next(scope.graph.links[slot.link] for slot in node.inputs if slot.name == name and slot.link is not None)
        return link.origin in scope.graph.nodes and scope.graph.nodes[link.origin].type == "PrimitiveNode"

    @staticmethod
    def _check_primitive(node: _Node, slot: _Slot, source: _Value, values: Mapping[str, Any]) -> None:
        """Page versions differ on primitives behind a reroute or a subgraph end: taken only where they cannot."""
        if slot.name not in values:
            raise node.error(
                f"input {_shown(slot.name)} has no widget that the primitive node {source.primitive.id} could set: use "
                "a node with an output of that type"
            )
        if values[slot.name] != source.value:
            raise node.error(
                f"the primitive node {source.primitive.id} holds {_shown(source.value)} but the widget "
                f"{_shown(slot.name)} that it sets through a reroute or subgraph holds {_shown(values[slot.name])}: "
                "connect the primitive directly, or use a node with an output of that type"
            )

    def _sent(self, node: _Node, spec: _Input | None, name: str, value: Any) -> Any:
        """The value as the page sends it, which for some widgets is not the value it saves."""
        kind = spec.widget_kind if spec else None
        if kind in SCRIPTED_KINDS:
            raise node.error(
                f"the widget {_shown(name)} ({kind}) gets its value from a script in the page: feed it from another "
                "node, or export the workflow in the API format"
            )
        if isinstance(value, str) and spec and spec.options.get("dynamicPrompts") is True:
            return _plain_prompt(node, name, value)
        if name == "filename_prefix" and isinstance(value, str) and PREFIX_FILLED_BY_PAGE.search(value):
            raise node.error("the page fills in the %…% parts of filename_prefix when it queues: write a plain prefix")
        return value


def _wrapped(value: Any, spec: _Input | None) -> Any:
    """A copy of a widget's value; lists wrapped, as a bare list in a prompt is a link."""
    if not isinstance(value, list):
        return copy.deepcopy(value)
    wrapper = {"__type__": "CURVE"} if spec and spec.widget_kind == "CURVE" else {}
    return wrapper | {"__value__": copy.deepcopy(value)}


def _compatible(first: str, second: str) -> bool:
    if "*" in (first, second):
        return True
    return not set(first.lower().split(",")).isdisjoint(second.lower().split(","))


def _plain_prompt(node: _Node, name: str, text: str) -> str:
    """Text of a widget with dynamic prompts: comments removed, braces resolved; a real choice is refused."""
    text = re.sub(r"/\*[\s\S]*?\*/|//.*", "", text)
    plain, depth, position = [], 0, 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\" and position < len(text):
            plain.append(text[position] if text[position] in "{}|" else char + text[position])
            position += 1
        elif char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char == "|" and depth:
            raise node.error(
                f"the text of {_shown(name)} has a {{a|b}} choice, which the page draws at random each time it "
                "queues: write one of them"
            )
        else:
            plain.append(char)
    return "".join(plain)
