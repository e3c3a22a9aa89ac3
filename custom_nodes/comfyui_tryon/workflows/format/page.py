"""Converts the web page's format to a prompt, as the page does when it queues a graph."""

from collections.abc import Mapping
from typing import Any

from .checks import MAX_NODES, NodeClasses, WorkflowInvalid, shown
from .graph import Node, parse_definitions, parse_graph
from .links import Links, NodeOutput, Primitive, Source
from .subgraphs import Scope, Subgraphs
from .values import sent, wrapped
from .widgets import WidgetReader


class Converter:
    """Converts one document; the graphs in it are parsed when it is made."""

    def __init__(self, document: dict, node_classes: NodeClasses) -> None:
        extra = document.get("extra")
        if isinstance(extra, dict) and extra.get("ue_links"):
            raise WorkflowInvalid(
                "the workflow has links that the Use Everywhere pack makes in the browser: turn them into real links "
                "(its menu offers that) or export the workflow in the API format"
            )
        self._widgets = WidgetReader(node_classes)
        self._subgraphs = Subgraphs(parse_definitions(document), self._widgets)
        self._links = Links(self._subgraphs, self._widgets)
        # without the document's own inputs and outputs, which only subgraphs have
        self._root = Scope(parse_graph({key: document.get(key) for key in ("nodes", "links")}, "the workflow"))

    def prompt(self) -> dict[str, dict]:
        """Returns the prompt with all active nodes, subgraphs expanded."""
        prompt: dict[str, dict] = {}
        for scope in self._scopes():
            for node in scope.graph.nodes.values():
                if node.active and not self._subgraphs.is_virtual(node):
                    node_id = scope.prefix + node.id
                    if node_id in prompt:
                        raise node.error(f"two nodes would get the id {node_id}: give one of them another id")
                    prompt[node_id] = self._convert(scope, node)
        if not prompt:
            raise WorkflowInvalid("the workflow has no active node: add nodes, or unmute them, and save it again")
        return prompt

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

    def _convert(self, scope: Scope, node: Node) -> dict:
        specs = {spec.name: spec for spec in self._widgets.inputs_of(node)}
        values = self._widgets.values_of(node) | scope.overrides.get(node.id, {})
        sources: dict[str, Source] = {}
        for slot in node.inputs:
            if slot.link is None:
                continue
            if slot.widget and slot.name not in values and slot.name not in specs:
                raise node.error(f"the linked widget {shown(slot.name)} no longer exists: remove the link")
            source = self._links.resolve(scope, node, slot)
            if isinstance(source, Primitive):
                direct = scope.graph.links[slot.link].origin == source.node.id
                _check_primitive(node, slot.name, source, values, direct)
                values[slot.name] = source.value
            else:
                sources[slot.name] = source
        inputs: dict[str, Any] = {}
        for name, value in values.items():
            if sources.get(name) is None:
                inputs[name] = sent(node, name, value, specs.get(name))
        for name, source in sources.items():
            if isinstance(source, NodeOutput):
                inputs[name] = [source.node_id, source.slot]
            elif source is not None:
                inputs[name] = wrapped(source.value, specs.get(name))
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}


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
            f"the primitive node {source.node.id} holds {shown(source.value)} but the widget {shown(name)}, "
            f"which it sets through a reroute or a subgraph, holds {shown(values[name])}: connect the primitive "
            "directly, or use a node with an output of that type"
        )
