"""Enters subgraphs: one scope for each use of a definition, with the widget values that its subgraph node holds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .checks import WorkflowInvalid, shown
from .graph import Graph, Node, Slot
from .kinds import is_page_only
from .widgets import WidgetReader

HELPERS = frozenset({"control_after_generate", "control_filter_list", "upload"})  # widgets that the page never sends


@dataclass(eq=False)
class Scope:
    """One use of a graph: the root, or a subgraph definition placed by `host`."""

    graph: Graph
    prefix: str = ""
    parent: "Scope | None" = None
    host: Node | None = None
    children: dict[str, "Scope"] = field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # inner node to widget to promoted value
    host_values: dict[int, Any] = field(default_factory=dict)  # subgraph input to the value of its promoted widget
    fault: WorkflowInvalid | None = None  # why the values of the widgets inside are not known


class Subgraphs:
    """The subgraph definitions of a file.

    The page lets a subgraph node show ("promote") widgets of the nodes inside it. The subgraph node then holds their
    values, in one of two forms: by position, for the subgraph inputs that feed a widget, or listed in proxyWidgets.
    """

    def __init__(self, definitions: dict[str, Graph], widgets: WidgetReader) -> None:
        self.definitions = definitions
        self._widgets = widgets
        self._host_values: dict[Node, dict[int, Any]] = {}
        self._widget_ends: dict[Graph, dict[tuple[str, str], int]] = {}

    def is_virtual(self, node: Node) -> bool:
        """Whether the node exists only in the page, so that a prompt never has it."""
        return node.type in self.definitions or is_page_only(node.type, self._widgets.node_classes)

    def enter(self, parent: Scope, host: Node) -> Scope:
        """Returns the scope of a subgraph node's inner graph, with its promoted values."""
        scope = Scope(self.definitions[host.type], f"{parent.prefix}{host.id}:", parent, host, fault=parent.fault)
        parent.children[host.id] = scope
        try:
            host.check_untagged("the node inside whose inputs they are")
            scope.host_values = dict(self._values_of(host))
            for (node_id, name), value in _promotions(host):
                self._promote(scope, host, node_id, name, value)
            for name, value in parent.overrides.get(host.id, {}).items():
                self._promote(scope, host, "-1", name, value)
        except WorkflowInvalid as error:  # which matters only if an output depends on a node inside
            scope.fault = scope.fault or error
        return scope

    def host_index(self, host: Node, slot: Slot) -> int:
        """Returns which input of its definition an input of a subgraph node is."""
        index = self.definitions[host.type].input_index(slot.name)
        if index is None:
            raise host.error(f"its input {shown(slot.name)} is not in the subgraph's definition: connect it again")
        return index

    def _promote(self, scope: Scope, host: Node, node_id: str, name: str, value: Any) -> None:
        ends = self._ends_with_widget(scope.graph)
        if (node_id, name) in ends:
            scope.host_values[ends[node_id, name]] = value
            return
        inner = scope.graph.nodes.get(node_id)
        if inner is None or not (self.is_virtual(inner) or name in self._widgets.values_of(inner)):
            raise host.error(
                f"it holds a value for the widget {shown(name)} of inner node {shown(node_id)}, which does not exist: "
                "open the workflow in the web page, check the node's values and save it again"
            )
        if any(slot.name == name and slot.link is not None for slot in inner.inputs):
            raise host.error(
                f"it holds a value for the widget {shown(name)} of inner node {shown(node_id)}, which is linked as "
                "well: remove one of the two"
            )
        scope.overrides.setdefault(node_id, {})[name] = value

    def _ends_with_widget(self, graph: Graph) -> dict[tuple[str, str], int]:
        """Returns the inputs that stand for a widget, by (inner node id, widget) and by ("-1", their own name)."""
        if graph not in self._widget_ends:
            ends: dict[tuple[str, str], int] = {}
            for index, slot in enumerate(graph.inputs):
                target = self._first_widget(graph, index)
                if target is not None:
                    ends["-1", slot.name] = ends[target[0].id, target[1].name] = index
            self._widget_ends[graph] = ends
        return self._widget_ends[graph]

    def _first_widget(self, graph: Graph, index: int) -> tuple[Node, Slot] | None:
        """Returns the inner input whose widget stands for a subgraph input, or None if it feeds only sockets."""
        for node, slot in graph.input_targets[index]:
            if node.type in self.definitions:
                if self.host_index(node, slot) in self._values_of(node):
                    return node, slot
            elif node.type in self._widgets.node_classes and slot.name in self._widgets.values_of(node):
                return node, slot
        return None

    def _values_of(self, host: Node) -> dict[int, Any]:
        """Returns a subgraph node's widget values, by the subgraph input that stands for the widget."""
        if host not in self._host_values:
            graph = self.definitions[host.type]
            values: dict[int, Any] = {}
            for index in range(len(graph.inputs)):
                target = self._first_widget(graph, index)
                if target is not None:
                    node, slot = target
                    if node.type in self.definitions:
                        values[index] = self._values_of(node)[self.host_index(node, slot)]
                    else:
                        values[index] = self._widgets.values_of(node)[slot.name]
            if not isinstance(host.values, list):
                raise host.error("a subgraph node's widgets_values must be a list")
            if not host.properties.get("proxyWidgets"):  # else the values are those of the listed widgets
                if len(host.values) > len(values):
                    raise host.error(
                        f"the file holds {len(host.values)} values for {len(values)} promoted widgets: open the "
                        "workflow in the web page, check the node's values and save it again"
                    )
                own = zip(list(values), host.values, strict=False)
                values.update((index, value) for index, value in own if value is not None)
            self._host_values[host] = values
        return self._host_values[host]


def _promotions(host: Node) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yields ((inner node id, widget name), value) for the proxyWidgets that have a value of their own.

    The id -1 stands for the subgraph node's own input of that name.
    """
    entries, values = host.properties.get("proxyWidgets"), host.values
    if not entries:  # page versions that no longer write proxyWidgets move old ones here
        kept = host.properties.get("proxyWidgetErrorQuarantine")
        kept = [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []
        entries, values = [entry.get("originalEntry") for entry in kept], [entry.get("hostValue") for entry in kept]
    if not isinstance(entries, list):
        raise host.error("proxyWidgets must be a list")
    for entry, value in zip(entries, values, strict=False):
        if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(part, str) for part in entry):
            raise host.error(f"the promoted widget {shown(entry)} is not a pair of node id and widget name")
        if value is not None and entry[1] not in HELPERS and not entry[1].startswith("$$"):
            yield (entry[0], entry[1]), value
