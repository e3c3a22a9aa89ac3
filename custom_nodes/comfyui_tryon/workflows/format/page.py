"""From the web page's format to the prompt: what the page does when it queues a graph."""

import copy
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .checks import MAX_NODES, WorkflowFormatError, has_output, shown
from .graph import BYPASS, INPUT_PANEL, NEVER, Graph, Node, Slot, parse_definitions, parse_graph, slot_type
from .widgets import SCRIPTED_KINDS, Input, WidgetReader

NOTES = frozenset({"Note", "MarkdownNote"})
HELPERS = frozenset({"control_after_generate", "control_filter_list", "upload"})  # widgets that the page never sends
PREFIX_FILLED_BY_PAGE = re.compile(r"%date:[^%]*%|%[^%.]+\.[^%.]+%")
SAVES_WITH_PREFIX = frozenset(
    "SaveImage SaveImageAdvanced SaveSVGNode SaveVideo SaveAnimatedWEBP SaveWEBM SaveAudio SaveAudioMP3 SaveAudioOpus "
    "SaveAudioAdvanced SaveGLB Save3DAdvanced SaveGaussianSplat SavePointCloud SaveAnimatedPNG CLIPSave VAESave "
    "ModelSave LoraSave SaveLatent".split()
)


@dataclass(eq=False)
class _Scope:
    """One use of a graph: the root, or a subgraph definition placed by `host`."""

    graph: Graph
    prefix: str = ""
    parent: "_Scope | None" = None
    host: Node | None = None
    children: dict[str, "_Scope"] = field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # inner node to widget to promoted value
    host_values: dict[int, Any] = field(default_factory=dict)  # subgraph input to the value of its promoted widget


@dataclass(frozen=True)
class _Output:
    node_id: str
    slot: int


@dataclass(frozen=True)
class _Value:
    value: Any
    primitive: Node | None = None


class Converter:
    def __init__(self, document: dict, node_classes: Mapping[str, type]):
        extra = document.get("extra")
        if isinstance(extra, dict) and extra.get("ue_links"):
            raise WorkflowFormatError(
                "the workflow has links that the Use Everywhere pack makes in the browser: turn them into real links "
                "(its menu offers that) or export the workflow in the API format"
            )
        self.node_classes = node_classes
        self.widgets = WidgetReader(node_classes)
        self.definitions = parse_definitions(document)
        root = {key: document.get(key) for key in ("nodes", "links")}
        self.root = _Scope(parse_graph(root, "the workflow"))
        self._resolved: dict[Hashable, _Output | _Value | None] = {}
        self._slots: dict[Node, list[Slot]] = {}
        self._promoted: dict[Node, dict[int, Any]] = {}
        self._widget_ends: dict[Graph, dict[tuple[str, str], int]] = {}

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

    def _is_virtual(self, node: Node) -> bool:
        return node.type in self.definitions or node.type in NOTES or node.type in ("Reroute", "PrimitiveNode")

    def _scopes(self) -> list[_Scope]:
        count, scopes = 0, [self.root]
        for scope in scopes:  # grows as subgraph nodes are entered
            count += len(scope.graph.nodes)
            if count > MAX_NODES:
                raise WorkflowFormatError(f"the workflow has more than {MAX_NODES} nodes with its subgraphs expanded")
            scopes.extend(
                self._enter(scope, node)
                for node in scope.graph.nodes.values()
                if node.type in self.definitions and node.active
            )
        return scopes

    def _enter(self, parent: _Scope, host: Node) -> _Scope:
        scope = _Scope(self.definitions[host.type], f"{parent.prefix}{host.id}:", parent, host)
        scope.host_values = dict(self._host_values(host))
        for (node_id, name), value in self._promotions(host):
            self._promote(scope, node_id, name, value)
        for name, value in parent.overrides.get(host.id, {}).items():
            self._promote(scope, "-1", name, value)
        parent.children[host.id] = scope
        return scope

    # Promoted widgets: values that a subgraph node holds for widgets inside it

    def _promotions(self, host: Node) -> Iterator[tuple[tuple[str, str], Any]]:
        """((inner node id, widget name), value) of the proxyWidgets that have a value of their own.

        The id -1 stands for the subgraph node's own input of that name.
        """
        entries, values = host.properties.get("proxyWidgets"), host.values
        if not entries:  # moved there by page versions that no longer write proxyWidgets
            kept = host.properties.get("proxyWidgetErrorQuarantine")
            kept = [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []
            entries, values = [entry.get("originalEntry") for entry in kept], [entry.get("hostValue") for entry in kept]
        if not isinstance(entries, list):
            raise host.error("proxyWidgets must be a list")
        for entry, value in zip(entries, values, strict=False):
            if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(part, str) for part in entry):
                raise host.error(f"the promoted widget {shown(entry)} is no pair of node id and widget name")
            if value is not None and entry[1] not in HELPERS and not entry[1].startswith("$$"):
                yield (entry[0], entry[1]), value

    def _promote(self, scope: _Scope, node_id: str, name: str, value: Any) -> None:
        ends = self._ends_with_widget(scope.graph)
        if (node_id, name) in ends:
            scope.host_values[ends[node_id, name]] = value
            return
        inner = scope.graph.nodes.get(node_id)
        if inner is None or not (self._is_virtual(inner) or name in self.widgets.values_of(inner)):
            raise scope.host.error(
                f"it holds a value for the widget {shown(name)} of inner node {shown(node_id)}, which is not there: "
                "open the workflow in the web page, check the node's values and save it again"
            )
        if any(slot.name == name and slot.link is not None for slot in inner.inputs):
            raise scope.host.error(
                f"it holds a value for the widget {shown(name)} of inner node {shown(node_id)}, which is linked as "
                "well: remove one of the two"
            )
        scope.overrides.setdefault(node_id, {})[name] = value

    def _ends_with_widget(self, graph: Graph) -> dict[tuple[str, str], int]:
        """Subgraph inputs that stand for a widget, by (inner node, widget) and by ("-1", their own name)."""
        if graph not in self._widget_ends:
            ends: dict[tuple[str, str], int] = {}
            for index, slot in enumerate(graph.inputs):
                target = self._first_widget(graph, index)
                if target is not None:
                    ends["-1", slot.name] = ends[target[0].id, target[1].name] = index
            self._widget_ends[graph] = ends
        return self._widget_ends[graph]

    def _first_widget(self, graph: Graph, index: int) -> tuple[Node, Slot] | None:
        """The inner input whose widget stands for a subgraph input, None where all it feeds are sockets."""
        for node, slot in graph.input_targets[index]:
            if node.type in self.definitions:
                if self._host_index(node, slot) in self._host_values(node):
                    return node, slot
            elif node.type in self.node_classes and slot.name in self.widgets.values_of(node):
                return node, slot
        return None

    def _host_index(self, host: Node, slot: Slot) -> int:
        index = self.definitions[host.type].input_index(slot.name)
        if index is None:
            raise host.error(f"its input {shown(slot.name)} is not in the subgraph's definition: connect it again")
        return index

    def _host_values(self, host: Node) -> dict[int, Any]:
        """Subgraph input to widget value, for the inputs that stand for a widget."""
        if host not in self._promoted:
            graph = self.definitions[host.type]
            values: dict[int, Any] = {}
            for index in range(len(graph.inputs)):
                target = self._first_widget(graph, index)
                if target is not None:
                    node, slot = target
                    if node.type in self.definitions:
                        values[index] = self._host_values(node)[self._host_index(node, slot)]
                    else:
                        values[index] = self.widgets.values_of(node)[slot.name]
            if not isinstance(host.values, list):
                raise host.error("a subgraph node's widgets_values must be a list")
            if not host.properties.get("proxyWidgets"):
                if len(host.values) > len(values):
                    raise host.error(
                        f"the file holds {len(host.values)} values for {len(values)} promoted widgets: open the "
                        "workflow in the web page, check the node's values and save it again"
                    )
                own = zip(list(values), host.values, strict=False)
                values.update((index, value) for index, value in own if value is not None)
            self._promoted[host] = values
        return self._promoted[host]

    # Links

    def _resolve(self, scope: _Scope, node: Node, slot: Slot) -> _Output | _Value | None:
        """What feeds an input once reroutes, bypassed nodes and subgraph ends are passed through."""
        state: Any = ("input", scope, node, slot, None)
        passed: dict[Hashable, None] = {}
        while isinstance(state, tuple) and state not in self._resolved:
            if state in passed:
                raise state[2].error("its links lead in a circle: remove one of them")
            passed[state] = None
            state = self._step(*state)
        result = self._resolved[state] if isinstance(state, tuple) else state
        self._resolved.update(dict.fromkeys(passed, result))
        return result

    def _step(self, kind: str, scope: _Scope, node: Node, slot: Any, wanted: str | None) -> Any:
        """One step towards a link's origin: the next state, or _Output, _Value or None at its end."""
        if kind == "input":
            if slot.link is None:
                return None
            link = scope.graph.links[slot.link]
            if link.origin == INPUT_PANEL:
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
        if node.type not in self.definitions:
            return _Output(scope.prefix + node.id, slot)
        inner = scope.children[node.id]
        if not 0 <= slot < len(inner.graph.outputs):
            raise node.error(f"a link starts at output {slot}, which the subgraph does not have: connect it again")
        link = inner.graph.links.get(inner.graph.outputs[slot].link)
        if link is None:
            return None
        if link.origin == INPUT_PANEL:
            return self._outwards(inner, link.origin_slot)
        return "output", inner, inner.graph.nodes[link.origin], link.origin_slot, wanted

    def _outwards(self, scope: _Scope, index: int) -> Any:
        """From a subgraph's input end to what feeds it outside: a link, or the widget on the subgraph node."""
        if not 0 <= index < len(scope.graph.inputs):
            raise scope.host.error(f"the subgraph has no input {index}: connect its inner nodes again")
        slot = self._host_slots(scope.host)[index]
        if slot.link is not None:
            return "input", scope.parent, scope.host, slot, None
        return _Value(scope.host_values[index]) if index in scope.host_values else None

    def _host_slots(self, host: Node) -> list[Slot]:
        """A subgraph node's inputs in its definition's order, with the links the node itself holds."""
        if host not in self._slots:
            slots = [Slot(slot.name, slot.type) for slot in self.definitions[host.type].inputs]
            for own in host.inputs:
                if own.link is not None:
                    slots[self._host_index(host, own)].link = own.link
            self._slots[host] = slots
        return self._slots[host]

    def _bypass_slot(self, node: Node, output: int, wanted: str) -> Slot | None:
        """The input that a bypassed node passes on: the one beside the output if its type fits, else the first."""
        slots, output_type = self._typed_slots(node), self._output_type(node, output)
        if wanted == "*":
            return slots[output if 0 <= output < len(slots) else 0] if slots else None

        def fits(slot: Slot) -> bool:
            return _compatible(slot.type, output_type) and _compatible(slot.type, wanted)

        if 0 <= output < len(slots) and fits(slots[output]):
            return slots[output]
        same_type = (slot for slot in slots if slot.type == wanted)
        return next(same_type, None) or next(filter(fits, slots), None)

    def _typed_slots(self, node: Node) -> list[Slot]:
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
                saved = own.pop(spec.name, None) or Slot(spec.name, spec.type)
                slots.append(Slot(spec.name, saved.type if spec.type.startswith("COMFY_") else spec.type, saved.link))
            self._slots[node] = slots + list(own.values())
        return self._slots[node]

    def _output_type(self, node: Node, output: int) -> str:
        if node.type in self.definitions:
            types = [slot.type for slot in self.definitions[node.type].outputs]
        else:
            types = node.outputs
        saved = types[output] if 0 <= output < len(types) else "*"
        node_class = self.node_classes.get(node.type)
        if node_class is None or not has_output(node_class, output):
            return saved
        declared = slot_type(node_class.RETURN_TYPES[output])
        return saved if declared.startswith("COMFY_") else declared

    @staticmethod
    def _primitive_value(scope: _Scope, node: Node) -> Any:
        for value in scope.overrides.get(node.id, {}).values():
            return value
        if not isinstance(node.values, list) or not node.values:
            raise node.error("it has no saved value: set it in the web page and save the workflow again")
        value = node.values[0]
        if node.properties.get("Run widget replace on values") and isinstance(value, str) and "%" in value:
            raise node.error("its text is filled in by the page when it queues: write the plain text instead")
        return value

    # Nodes

    def _convert(self, scope: _Scope, node: Node) -> dict:
        specs = {spec.name: spec for spec in self.widgets.inputs_of(node)}
        values = self.widgets.values_of(node) | scope.overrides.get(node.id, {})
        sources = {}
        for slot in node.inputs:
            if slot.link is not None:
                if slot.widget and slot.name not in values and slot.name not in specs:
                    raise node.error(f"the linked widget {shown(slot.name)} does not exist any more: remove the link")
                sources[slot.name] = self._resolve(scope, node, slot)
                if isinstance(sources[slot.name], _Value) and sources[slot.name].primitive:
                    primitive = sources[slot.name].primitive
                    direct = scope.graph.links[slot.link].origin == primitive.id
                    _check_primitive(node, slot.name, sources[slot.name], values, direct)
                    values[slot.name] = sources.pop(slot.name).value
        inputs: dict[str, Any] = {}
        for name, value in values.items():
            if sources.get(name) is None:
                inputs[name] = _wrapped(_sent(node, name, value, specs.get(name)), specs.get(name))
        for name, source in sources.items():
            if isinstance(source, _Output):
                inputs[name] = [source.node_id, source.slot]
            elif source is not None:
                inputs[name] = _wrapped(source.value, specs.get(name))
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}


def _check_primitive(node: Node, name: str, source: _Value, values: Mapping[str, Any], direct: bool) -> None:
    """Page versions differ on primitives behind a reroute or a subgraph end: those pass only where they agree."""
    if name not in values:
        raise node.error(
            f"input {shown(name)} has no widget that the primitive node {source.primitive.id} could set: use a node "
            "with an output of that type"
        )
    if not direct and values[name] != source.value:
        raise node.error(
            f"the primitive node {source.primitive.id} holds {shown(source.value)} but the widget {shown(name)}, "
            f"which it sets through a reroute or a subgraph, holds {shown(values[name])}: connect the primitive "
            "directly, or use a node with an output of that type"
        )


def _sent(node: Node, name: str, value: Any, spec: Input | None) -> Any:
    """A widget's value as the page sends it, which for some widgets is not the value it saves."""
    if spec and spec.kind in SCRIPTED_KINDS:
        raise node.error(
            f"the widget {shown(name)} ({spec.kind}) gets its value from a script in the page: feed it from another "
            "node, or export the workflow in the API format"
        )
    if isinstance(value, str):
        if spec and spec.options.get("dynamicPrompts") is True:
            return _plain_prompt(node, name, value)
        if name == "filename_prefix" and node.type in SAVES_WITH_PREFIX and PREFIX_FILLED_BY_PAGE.search(value):
            raise node.error("the page fills in the %…% parts of filename_prefix when it queues: write a plain prefix")
    return value


def _wrapped(value: Any, spec: Input | None) -> Any:
    """A copy of a widget's value; lists wrapped, as a bare list in a prompt is a link."""
    if not isinstance(value, list):
        return copy.deepcopy(value)
    wrapper = {"__type__": "CURVE"} if spec and spec.kind == "CURVE" else {}
    return wrapper | {"__value__": copy.deepcopy(value)}


def _compatible(first: str, second: str) -> bool:
    if first == second or "*" in (first, second):
        return True
    return not set(first.lower().split(",")).isdisjoint(second.lower().split(","))


def _plain_prompt(node: Node, name: str, text: str) -> str:
    """Text of a widget with dynamic prompts: comments removed, braces resolved; a real choice is refused."""
    plain: list[str] = []
    depth = 0
    for part in re.finditer(r"\\[\s\S]|[{}|]|[^\\{}|]+|\\", _without_comments(text)):
        token = part.group()
        if token == "{":
            depth += 1
        elif token == "}" and depth:
            depth -= 1
        elif token == "|" and depth:
            raise node.error(
                f"the text of {shown(name)} has a {{a|b}} choice, which the page draws at random each time it "
                "queues: write one of them"
            )
        else:
            plain.append(token[1:] if token in ("\\{", "\\}", "\\|") else token)
    return "".join(plain)


def _without_comments(text: str) -> str:
    """The text less `/* … */` and `// …` comments."""
    kept: list[str] = []
    position, comment = 0, re.compile(r"/\*|//[^\n\r\u2028\u2029]*")
    while found := comment.search(text, position):
        end = found.end()
        if found.group() == "/*":
            end = text.find("*/", end) + 2
            if end < 2:  # never closed, and so is none that follows
                comment, end = re.compile(r"//[^\n\r\u2028\u2029]*"), found.start() + 1
                kept.append(text[position:end])
                position = end
                continue
        kept.append(text[position : found.start()])
        position = end
    return "".join(kept) + text[position:]
