"""Converts the web page's format to a prompt, as the page does when it queues a graph."""

from collections.abc import Mapping
from typing import Any

from .checks import MAX_NODES, NodeClasses, WorkflowInvalid, describe, shown
from .graph import BYPASS, Node, Slot, parse_definitions, parse_graph
from .groups import expand_groups
from .links import Links, NodeOutput, Primitive, Source
from .subgraphs import Scope, Subgraphs
from .values import sent, wrapped
from .widgets import Input, WidgetReader


class Converter:
    """Converts one document; the graphs in it are parsed when it is made."""

    def __init__(self, document: dict, node_classes: NodeClasses) -> None:
        self._widgets = WidgetReader(node_classes)
        document = expand_groups(document, self._widgets)
        self._subgraphs = Subgraphs(parse_definitions(document), self._widgets)
        self._links = Links(self._subgraphs, self._widgets)
        self.bypassed: list[str] = []
        # without the document's own inputs and outputs, which only subgraphs have
        self._root = Scope(parse_graph({key: document.get(key) for key in ("nodes", "links", "extra")}, "the workflow"))

    def prompt(self) -> tuple[dict[str, dict], dict[str, WorkflowInvalid]]:
        """Returns the prompt with all active nodes, subgraphs expanded, and by node id what is wrong with a node."""
        prompt: dict[str, dict] = {}
        faults: dict[str, WorkflowInvalid] = {}
        for scope in self._scopes():
            for node in scope.graph.nodes.values():
                # one that is linked to a single node takes no image away from the others
                if node.mode == BYPASS and sum(slot.link is not None for slot in node.inputs) > 1:
                    self.bypassed.append(describe(scope.prefix + node.id, node.type, node.title))
                if node.active and not self._subgraphs.is_virtual(node):
                    node_id = scope.prefix + node.id
                    if node_id in prompt:
                        raise node.error(f"two nodes would get the id {node_id}: give one of them another id")
                    prompt[node_id], wrong = self._convert(scope, node)
                    if wrong:
                        faults[node_id] = wrong[0]
        if not prompt:
            raise WorkflowInvalid("the workflow has no active node: add nodes, or unmute them, and save it again")
        return prompt, faults

    def _scopes(self) -> list[Scope]:
        count, scopes = 0, [self._root]
        for scope in scopes:  # grows as subgraph nodes are entered
            count += len(scope.graph.nodes)
            if count > MAX_NODES:
                raise WorkflowInvalid(f"the workflow has more than {MAX_NODES} nodes with its subgraphs expanded")
            scopes.extend(
                self._subgraphs.enter(scope, node)
                for node in scope.graph.nodes.values()
                if node.type in self._subgraphs.definitions and node.active
            )
        return scopes

    def _convert(self, scope: Scope, node: Node) -> tuple[dict, list[WorkflowInvalid]]:
        """Returns a node of the prompt with all inputs that can be found, and why others cannot."""
        wrong = [scope.fault] if scope.fault else []
        specs: dict[str, Input] = {}
        values: dict[str, Any] = {}
        sources: dict[str, Source] = {}
        inputs: dict[str, Any] = {}
        try:
            specs = {spec.name: spec for spec in self._widgets.inputs_of(node)}
            values = self._widgets.values_of(node) | scope.overrides.get(node.id, {})
        except WorkflowInvalid as error:
            wrong.insert(0, error)
        for slot in node.inputs:
            try:
                if slot.link is not None:
                    self._follow(scope, node, slot, specs, values, sources)
            except WorkflowInvalid as error:
                wrong.append(error)
        for name, value in values.items():
            try:
                if sources.get(name) is None:
                    inputs[name] = sent(node, name, value, specs.get(name))
            except WorkflowInvalid as error:
                wrong.append(error)
        for name, source in sources.items():
            if isinstance(source, NodeOutput):
                inputs[name] = [source.node_id, source.slot]
            elif source is not None:
                inputs[name] = wrapped(source.value, specs.get(name))
        for name, spec in specs.items():
            if spec.required and name not in inputs and spec.type in scope.graph.broadcast:
                wrong.append(
                    node.error(
                        f"input {shown(name)} may get its value from a Use Everywhere node, which the file does not "
                        "say: turn such links into real ones (the pack's menu offers that) and save the workflow again"
                    )
                )
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}, wrong

    def _follow(
        self,
        scope: Scope,
        node: Node,
        slot: Slot,
        specs: Mapping[str, Input],
        values: dict[str, Any],
        sources: dict[str, Source],
    ) -> None:
        """Puts what feeds an input into `sources`, or into `values` if a primitive node does."""
        source = self._links.resolve(scope, node, slot)
        if isinstance(source, NodeOutput):
            sources[slot.name] = source
        if slot.widget and slot.name not in values and slot.name not in specs:
            raise node.error(f"the linked widget {shown(slot.name)} no longer exists: remove the link")
        if isinstance(source, Primitive):
            assert slot.link is not None
            direct = scope.graph.links[slot.link].origin == source.node.id
            _check_primitive(node, slot.name, source, values, direct)
            values[slot.name] = source.value
        else:
            sources[slot.name] = source


def _check_primitive(node: Node, name: str, source: Primitive, values: Mapping[str, Any], direct: bool) -> None:
    """Refuses a primitive that has no widget to set, or whose effect differs between page versions.

    They differ on primitives behind a reroute or a subgraph end, whose value the widget may or may not have taken.
    """
    if name not in values:
        raise node.error(
            f"input {shown(name)} has no widget that the primitive node {source.node.id} could set: use a node "
            "with an output of that type"
        )
    if not direct and values[name] != source.value:
        raise node.error(
            f"the primitive node {source.node.id} and the widget {shown(name)}, which it sets through a reroute or a "
            "subgraph, hold different values: connect the primitive directly, or use a node with an output of that type"
        )
