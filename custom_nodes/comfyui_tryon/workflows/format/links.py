"""Follows links to what feeds an input: through reroutes, bypassed nodes and the two ends of subgraphs."""

from dataclasses import dataclass, replace
from typing import Any

from .checks import WorkflowInvalid, has_output, shown
from .graph import BYPASS, INPUT_PANEL, NEVER, Node, Slot, slot_type
from .kinds import NOTES, is_page_only, setter_of
from .subgraphs import Scope, Subgraphs
from .widgets import WidgetReader


@dataclass(frozen=True)
class NodeOutput:
    """The output of a node in the prompt."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Value:
    """The value of a promoted widget."""

    value: Any


@dataclass(frozen=True)
class Primitive(Value):
    """The value of a primitive node."""

    node: Node


Source = NodeOutput | Value | None


@dataclass(frozen=True)
class _AtInput:
    """A position on the way to the source: an input, whose link is followed next."""

    scope: Scope
    node: Node
    slot: Slot
    wanted: str | None = None  # the type at the link's far end, if only reroutes are between


@dataclass(frozen=True)
class _AtOutput:
    """A position on the way to the source: an output, whose node is passed through next."""

    scope: Scope
    node: Node
    index: int
    wanted: str


_Position = _AtInput | _AtOutput


class Links:
    """Finds the sources of inputs; each stretch of links is followed once."""

    def __init__(self, subgraphs: Subgraphs, widgets: WidgetReader) -> None:
        self._subgraphs = subgraphs
        self._widgets = widgets
        self._resolved: dict[_Position, Source] = {}
        self._slots: dict[Node, list[Slot]] = {}

    def resolve(self, scope: Scope, node: Node, slot: Slot) -> Source:
        """Returns what feeds an input, or None if nothing does."""
        # step by step, not by recursion, which a long chain of reroutes would exhaust
        state: _Position | Source = _AtInput(scope, node, slot)
        passed: dict[_Position, None] = {}
        while isinstance(state, (_AtInput, _AtOutput)) and state not in self._resolved:
            if state in passed:
                raise state.node.error("its links form a circle: remove one of them")
            passed[state] = None
            state = self._before_input(state) if isinstance(state, _AtInput) else self._before_output(state)
        source = self._resolved[state] if isinstance(state, (_AtInput, _AtOutput)) else state
        self._resolved.update(dict.fromkeys(passed, source))
        return source

    def _before_input(self, at: _AtInput) -> _Position | Source:
        if at.slot.link is None:
            return None
        if at.slot.fault:
            raise at.node.error(at.slot.fault)
        link = at.scope.graph.links[at.slot.link]
        if link.origin == INPUT_PANEL:
            return self._outside(at.scope, link.origin_slot)
        return _AtOutput(at.scope, at.scope.graph.nodes[link.origin], link.origin_slot, at.wanted or at.slot.type)

    def _before_output(self, at: _AtOutput) -> _Position | Source:
        scope, node = at.scope, at.node
        if node.type == "PrimitiveNode":
            return Primitive(_primitive_value(scope, node), node)
        if node.mode == NEVER or node.type in NOTES:
            return None
        if node.mode == BYPASS:
            slot = self._bypass_slot(node, at.index, at.wanted)
            return None if slot is None else _AtInput(scope, node, slot)
        if node.type in self._subgraphs.definitions:
            return self._inside(at)
        if is_page_only(node.type, self._widgets.node_classes):
            return self._through(at)
        return NodeOutput(scope.prefix + node.id, at.index)

    def _through(self, at: _AtOutput) -> _Position | None:
        """Steps through a node of the page: to what feeds its Set node, or its own input beside the output."""
        scope, node = at.scope, at.node
        setter = setter_of(node.type)
        if setter:
            scope, node = self._set_node(at, setter)
        index = 0 if setter else at.index
        return _AtInput(scope, node, node.inputs[index], at.wanted) if 0 <= index < len(node.inputs) else None

    def _set_node(self, at: _AtOutput, setter: str) -> tuple[Scope, Node]:
        """Returns the Set node of a Get node's name: the first in its own graph, else the only one around it."""
        name = _constant(at.node)
        found: list[tuple[Scope, Node]] = []
        scope: Scope | None = at.scope
        while scope and name:
            same = [node for node in scope.graph.nodes.values() if node.type == setter and _constant(node) == name]
            found += [(scope, node) for node in same]
            if same and scope is at.scope:
                return found[0]
            scope = scope.parent
        if len(found) != 1:
            raise at.node.error(
                f"{'no' if not found else 'more than one'} Set node has its name {shown(name)}: choose the name in the "
                "web page, or export the workflow in the API format"
            )
        return found[0]

    def _inside(self, at: _AtOutput) -> _Position | Source:
        """Steps from an output of a subgraph node to what feeds it inside."""
        inner = at.scope.children[at.node.id]
        if not 0 <= at.index < len(inner.graph.outputs):
            raise at.node.error(f"a link starts at output {at.index}, which its subgraph lacks: connect it again")
        output = inner.graph.outputs[at.index]
        if output.fault:
            raise WorkflowInvalid(output.fault)
        if output.link is None:
            return None
        link = inner.graph.links[output.link]
        if link.origin == INPUT_PANEL:
            return self._outside(inner, link.origin_slot)
        return _AtOutput(inner, inner.graph.nodes[link.origin], link.origin_slot, at.wanted)

    def _outside(self, scope: Scope, index: int) -> _AtInput | Value | None:
        """Steps from an input of a subgraph to what feeds it outside: a link, or the widget on the subgraph node."""
        assert scope.parent and scope.host, "the root graph has no inputs"
        if not 0 <= index < len(scope.graph.inputs):
            raise scope.host.error(f"the subgraph has no input {index}: connect its inner nodes again")
        slot = self._host_slots(scope.host)[index]
        if slot.link is not None:
            return _AtInput(scope.parent, scope.host, slot)
        if scope.fault:
            raise scope.fault
        return Value(scope.host_values[index]) if index in scope.host_values else None

    def _host_slots(self, host: Node) -> list[Slot]:
        """Returns a subgraph node's inputs in its definition's order, with the links that the node itself holds."""
        if host not in self._slots:
            slots = [Slot(slot.name, slot.type) for slot in self._subgraphs.definitions[host.type].inputs]
            for own in host.inputs:
                if own.link is not None:
                    slot = slots[self._subgraphs.host_index(host, own)]
                    slot.link, slot.fault = own.link, own.fault
            self._slots[host] = slots
        return self._slots[host]

    def _bypass_slot(self, node: Node, output: int, wanted: str) -> Slot | None:
        """Returns the input that a bypassed node passes on: the one at the output's index, else the first that fits."""
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
        """Returns a node's inputs as the page orders them: sockets, then widgets, then those that only the file has."""
        if node.type in self._subgraphs.definitions:
            return self._host_slots(node)
        if node.type not in self._widgets.node_classes:
            return node.inputs  # its pack is missing, which does not matter as long as it is bypassed
        if node not in self._slots:
            own = {slot.name: slot for slot in node.inputs}
            specs = [spec for spec in self._widgets.inputs_of(node) if spec.type != "COMFY_AUTOGROW_V3"]
            ordered = [spec for spec in specs if not spec.is_widget]
            ordered += [spec for spec in specs if spec.is_widget and not spec.options.get("socketless")]
            slots = []
            for spec in ordered:
                saved = own.pop(spec.name, None) or Slot(spec.name, spec.type)
                saved_type = saved.type if spec.type.startswith("COMFY_") else spec.type
                slots.append(replace(saved, name=spec.name, type=saved_type))
            self._slots[node] = slots + list(own.values())
        return self._slots[node]

    def _output_type(self, node: Node, output: int) -> str:
        if node.type in self._subgraphs.definitions:
            types = [slot.type for slot in self._subgraphs.definitions[node.type].outputs]
        else:
            types = node.outputs
        saved = types[output] if 0 <= output < len(types) else "*"
        node_class = self._widgets.node_classes.get(node.type)
        if node_class is None or not has_output(node_class, output):
            return saved
        declared = slot_type(node_class.RETURN_TYPES[output])
        return saved if declared.startswith("COMFY_") else declared


def _constant(node: Node) -> str | None:
    """Returns the name by which Set and Get nodes find each other."""
    value = node.values[0] if isinstance(node.values, list) and node.values else None
    return value if isinstance(value, str) else None


def _primitive_value(scope: Scope, node: Node) -> Any:
    node.check_untagged("the node that it feeds")
    overrides = scope.overrides.get(node.id)
    if overrides:
        return next(iter(overrides.values()))  # a primitive has one widget
    if not isinstance(node.values, list) or not node.values:
        raise node.error("it has no saved value: set it in the web page and save the workflow again")
    value = node.values[0]
    if node.properties.get("Run widget replace on values") and isinstance(value, str) and "%" in value:
        raise node.error("its text is filled in by the page when it queues: write the plain text instead")
    return value


def _compatible(first: str, second: str) -> bool:
    if first == second or "*" in (first, second):
        return True
    return not set(first.lower().split(",")).isdisjoint(second.lower().split(","))
