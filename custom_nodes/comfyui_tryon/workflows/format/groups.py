"""Expands legacy group nodes (`workflow>NAME`, kept in `extra.groupNodes`) into subgraphs, which replaced them.

Each group node becomes a subgraph of its own, because it holds the values of all widgets inside by position. Ids of
inner nodes are their indices, as the page has them when it queues. A group whose data cannot be read stays as it is
and counts as a missing node.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from .checks import MAX_NODES, WorkflowInvalid
from .graph import INPUT_PANEL, OUTPUT_PANEL, Node, slot_type
from .missing import ClassMissing
from .widgets import CONTROL_MODES, Input, WidgetReader

GROUP = re.compile("workflow[>/]")
MAX_GROUPS = 200


def expand_groups(document: dict, widgets: WidgetReader) -> dict:
    """Returns the document with a subgraph in place of each group node that can be expanded.

    Definitions of subgraphs that are malformed stay as they are, for the parser to refuse.
    """
    extra = document.get("extra")
    kept = extra.get("groupNodes") if isinstance(extra, dict) else None
    definitions = document.get("definitions") or {}
    subgraphs = definitions.get("subgraphs") or [] if isinstance(definitions, dict) else None
    if not isinstance(kept, dict) or not isinstance(subgraphs, list) or not isinstance(document.get("nodes"), list):
        return document
    made: list[dict] = []
    nodes = []
    for host in document["nodes"]:
        kind = host.get("type") if isinstance(host, dict) else None
        group = kept.get(kind[len("workflow>") :]) if isinstance(kind, str) and GROUP.match(kind) else None
        if isinstance(group, dict) and len(made) < MAX_GROUPS:
            try:
                definition = _Group(group, host, widgets).definition(f"group {kind} {len(made)}")
            except ClassMissing as error:
                inside = next(node for node in group["nodes"] if node["type"] == error.node_type)
                host = {**host, "type": error.node_type, "properties": inside.get("properties"), "title": kind}
                definition = None
            except (WorkflowInvalid, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                definition = None  # malformed
            if definition:
                made.append(definition)
                host = {**host, "type": definition["id"], "widgets_values": [], "title": host.get("title") or kind}
        nodes.append(host)
    return {**document, "nodes": nodes, "definitions": {**definitions, "subgraphs": [*subgraphs, *made]}}


class _Group:
    def __init__(self, group: dict, host: dict, widgets: WidgetReader) -> None:
        self._host = host
        self._nodes = copy.deepcopy(group["nodes"])
        if len(self._nodes) > MAX_NODES:
            raise WorkflowInvalid("too many nodes")
        self._links = [link for link in group.get("links") or [] if link[0] is not None]
        self._external = {(entry[0], entry[1]) for entry in group.get("external") or []}
        self._config = group.get("config") or {}
        self._widgets = widgets
        self._specs = [self._specs_of(node) for node in self._nodes]
        self._into = {(link[2], self._input_name(link[2], link[3])): link for link in self._links}
        self._from = {(link[0], link[1]) for link in self._links}
        self._seen: dict[str, int] = {}
        values = host.get("widgets_values")
        self._values = values[::-1] if isinstance(values, list) else []

    def definition(self, key: str) -> dict:
        """Returns a subgraph definition in the page's format, with the group node's own widget values."""
        inputs: list[dict] = []
        outputs: list[dict] = []
        links: list[dict] = []
        sockets: list[tuple[int, Input]] = []
        converted: list[tuple[int, Input]] = []
        for index, node in enumerate(self._nodes):
            node["id"] = index
            for slot in node.get("inputs") or []:
                slot["link"] = None
            sockets += [(index, spec) for spec in self._specs[index] if not spec.is_widget]
            widgets = (spec for spec in self._specs[index] if spec.is_widget)
            converted += [(index, spec) for spec in widgets if self._is_converted(node, spec)]
            self._take_values(index, node)
        for link in self._links:
            links.append(_link(len(links) + 1, link[0], link[1], link[2], link[3]))
            self._nodes[link[2]]["inputs"][link[3]]["link"] = len(links)
        for index, spec in sockets + converted:
            if (index, spec.name) in self._into:
                continue
            name = self._shown_name(index, spec)
            if self._given(index, "input", spec.name).get("visible") is False:
                continue
            slot = self._slot(index, spec)
            links.append(_link(len(links) + 1, INPUT_PANEL, len(inputs), index, slot))
            self._nodes[index]["inputs"][slot]["link"] = len(links)
            inputs.append({"name": name, "type": spec.type, "linkIds": [len(links)]})
        self._name_as_the_host_does(inputs)
        for index, slot, kind in self._outputs():
            links.append(_link(len(links) + 1, index, slot, OUTPUT_PANEL, len(outputs)))
            outputs.append({"name": kind, "type": kind, "linkIds": [len(links)]})
        return {"id": key, "name": key, "nodes": self._nodes, "links": links, "inputs": inputs, "outputs": outputs}

    def _specs_of(self, node: dict) -> list[Input]:
        kind = node["type"]
        if kind == "Reroute":
            return [Input("", "*", "*", {"forceInput": True}, (), True)]
        if kind == "PrimitiveNode":
            return []
        shape = Node("0", kind, None, 0, [], [], [], {})
        return self._widgets.inputs_of(shape)

    def _input_name(self, index: int, slot: int) -> str:
        return self._nodes[index]["inputs"][slot]["name"]

    def _is_converted(self, node: dict, spec: Input) -> bool:
        """Whether a widget was turned into an input in the group; newer pages list all widgets among the inputs."""
        slots = [slot for slot in node.get("inputs") or [] if slot.get("name") == spec.name and slot.get("widget")]
        return bool(slots) and ((node["id"], spec.name) in self._into or not self._lists_all_widgets(node))

    def _lists_all_widgets(self, node: dict) -> bool:
        listed = {slot.get("name") for slot in node.get("inputs") or [] if slot.get("widget")}
        return listed >= {spec.name for spec in self._specs[node["id"]] if spec.is_widget and spec.kind != "CUSTOM"}

    def _take_values(self, index: int, node: dict) -> None:
        """Gives an inner node the values that the group node holds for its widgets."""
        if node["type"] == "PrimitiveNode":
            if (index, 0) in self._from and self._values:
                node["widgets_values"] = [self._values.pop()]
                self._skip_control()
            return
        own = {}
        for spec in self._specs[index]:
            if spec.is_widget and not self._is_converted(node, spec) and self._values:
                own[spec.name] = self._values.pop()
                if spec.controlled:
                    self._skip_control()
                if any(spec.options.get(key) is True for key in ("image_upload", "video_upload")) and self._values:
                    if self._values[-1] == "image":
                        self._values.pop()
        if own:
            shape = Node(str(index), node["type"], None, 0, [], [], node.get("widgets_values") or [], {})
            node["widgets_values"] = {**self._widgets.values_of(shape), **own}

    def _skip_control(self) -> None:
        if self._values and self._values[-1] in CONTROL_MODES:
            self._values.pop()

    def _shown_name(self, index: int, spec: Input) -> str:
        """Returns the name of an input on the group node, where a repeated one has its node's title before it."""
        node = self._nodes[index]
        given = self._given(index, "input", spec.name)
        label = next((slot.get("label") for slot in node.get("inputs") or [] if slot.get("name") == spec.name), None)
        name = key = given.get("name") or label or spec.name or spec.type
        if name in self._seen:
            prefix = node.get("title") or node["type"]
            name = key = f"{prefix} {spec.name}"
            if name in self._seen:
                name = f"{prefix} {self._seen[name]} {spec.name}"
        self._seen[key] = self._seen.get(key, 1) + 1
        return name

    def _given(self, index: int, side: str, name: str) -> dict:
        """Returns what the author set for an input or output in the page's dialog for group nodes."""
        return ((self._config.get(str(index)) or {}).get(side) or {}).get(name) or {}

    def _name_as_the_host_does(self, inputs: list[dict]) -> None:
        """Takes the names on the group node itself, in its order, where it has others than the computed ones."""
        own = self._host.get("inputs") or []
        own = [slot for slot in own if slot.get("link") is not None or not slot.get("widget")]
        linked = {slot["name"] for slot in own if slot.get("link") is not None}
        if not linked <= {slot["name"] for slot in inputs} and len(own) == len(inputs):
            for made, slot in zip(inputs, own, strict=True):
                made["name"] = slot["name"]

    def _slot(self, index: int, spec: Input) -> int:
        inputs = self._nodes[index].setdefault("inputs", [])
        for number, slot in enumerate(inputs):
            if slot.get("name") == spec.name:
                return number
        inputs.append({"name": spec.name, "type": spec.type})
        return len(inputs) - 1

    def _outputs(self) -> Iterator[tuple[int, int, str]]:
        """Yields (inner node, output, type) of the outputs that the group node shows, in its order."""
        for index, node in enumerate(self._nodes):
            for slot, output in enumerate(node.get("outputs") or []):
                hidden = (index, slot) in self._from and (index, slot) not in self._external
                if node["type"] == "PrimitiveNode":
                    continue
                if self._given(index, "output", str(slot)).get("visible", not hidden):
                    yield index, slot, slot_type(output.get("type"))


def _link(number: int, origin: Any, origin_slot: int, target: Any, target_slot: int) -> dict:
    return {
        "id": number,
        "origin_id": origin,
        "origin_slot": origin_slot,
        "target_id": target,
        "target_slot": target_slot,
    }
