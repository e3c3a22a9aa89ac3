"""Parses the web page's format as it is in the file: nodes, links and subgraph definitions, each checked."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .checks import MAX_NODES, TAG, MisplacedTag, WorkflowInvalid, describe, is_id, is_int, shown, whole
from .kinds import USE_EVERYWHERE

MAX_LINKS = 20_000
MAX_SLOTS = 500  # inputs or outputs of one node
MAX_NESTING = 32  # subgraphs within subgraphs
MAX_TYPE_LENGTH = 1_000
NEVER, BYPASS = 2, 4  # modes of a node
SLOT_TEXT = re.compile("[0-9]{1,9}")
INPUT_PANEL, OUTPUT_PANEL = "-10", "-20"  # a subgraph's two ends, as its links name them


# eq=False makes nodes and slots usable as keys: two with the same content are still two.
@dataclass(eq=False)
class Slot:
    """An input of a node, or an end of a subgraph."""

    name: str
    type: str
    link: int | None = None
    widget: bool = False
    fault: str | None = None  # what is wrong with its link, which matters only where the link is followed


@dataclass(frozen=True)
class Link:
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(eq=False)
class Node:
    id: str
    type: str
    title: str | None
    mode: int
    inputs: list[Slot]
    outputs: list[str]
    values: list | dict
    properties: dict

    def error(self, what: str) -> WorkflowInvalid:
        return WorkflowInvalid(f"{describe(self.id, self.type, self.title)}: {what}")

    def check_untagged(self, instead: str) -> None:
        """Refuses a tag that no prompt has, because the node is not in it; `instead` says which node to tag."""
        if TAG in (self.title or ""):
            where = describe(self.id, self.type, self.title)
            raise MisplacedTag(f"{where}: requests cannot set its values: move {TAG} …] to the title of {instead}")

    @property
    def active(self) -> bool:
        return self.mode not in (NEVER, BYPASS)


@dataclass(eq=False)
class Graph:
    """The root graph, or a subgraph's definition."""

    name: str
    nodes: dict[str, Node]
    links: dict[int, Link]
    inputs: list[Slot]
    outputs: list[Slot]
    input_targets: list[list[tuple[Node, Slot]]]  # per subgraph input, the inner inputs it feeds
    broadcast: frozenset[str] = frozenset()  # the types that Use Everywhere nodes send to inputs which the file omits

    def input_index(self, name: str) -> int | None:
        return self._indices.get(name)

    def __post_init__(self) -> None:
        self._indices = {slot.name: index for index, slot in enumerate(self.inputs)}


def _items(raw: Mapping, key: str, where: str, kind: type | tuple[type, ...] = dict) -> Iterator[Any]:
    """Yields the members of the list raw[key], each checked to be of `kind`; none if it is missing or null."""
    members = raw.get(key)
    if members is None:
        return
    if not isinstance(members, list):
        raise WorkflowInvalid(f"{where}: `{key}` must be a list")
    if key in ("inputs", "outputs") and len(members) > MAX_SLOTS:
        raise WorkflowInvalid(f"{where} has more than {MAX_SLOTS} {key}")
    for member in members:
        if not isinstance(member, kind):
            raise WorkflowInvalid(f"{where}: `{key}` has a member of the wrong type ({shown(member)})")
        yield member


def slot_type(raw: Any) -> str:
    """Returns a type as the page compares it: COMBO for a list of choices, * for none."""
    if isinstance(raw, (list, tuple)):
        return "COMBO"
    name = str(raw) if isinstance(raw, (str, int)) else ""
    return "*" if name in ("", "0") else name


def _parse_type(raw: dict, where: str) -> str:
    name = slot_type(raw.get("type"))
    if len(name) > MAX_TYPE_LENGTH:  # bypassed nodes have each of their types split and compared with each other
        raise WorkflowInvalid(f"{where}: the type of an input or output has {len(name)} characters")
    return name


def _parse_slot(raw: dict, where: str) -> Slot:
    name, link, widget = raw.get("name"), whole(raw.get("link")), raw.get("widget")
    if not isinstance(name, str):
        raise WorkflowInvalid(f"{where}: an input or output has no name")
    if link is not None and not is_int(link):
        raise WorkflowInvalid(f"{where}: input {shown(name)} has a link that is not a number")
    return Slot(name, _parse_type(raw, where), link, isinstance(widget, dict))


def _parse_node(raw: dict, where: str) -> Node:
    node_id, node_type = whole(raw.get("id")), raw.get("type")
    if not is_id(node_id):
        raise WorkflowInvalid(f"{where}: a node's id must be a number or a string, not {shown(node_id)}")
    if not isinstance(node_type, str) or not node_type:
        raise WorkflowInvalid(f"{where}: {describe(str(node_id))} has no type")
    title, mode, values = raw.get("title"), whole(raw.get("mode")), raw.get("widgets_values")
    mode = 0 if mode is None else mode
    properties = raw.get("properties")
    node = Node(
        id=str(node_id),
        type=node_type,
        title=title if isinstance(title, str) else None,
        mode=mode if is_int(mode) else 0,
        inputs=[],
        outputs=[],
        values=[] if values is None else values,
        properties=properties if isinstance(properties, dict) else {},
    )
    if not is_int(mode):
        raise node.error(f"mode must be a number, not {shown(mode)}")
    if not isinstance(node.values, (list, dict)):
        raise node.error("widgets_values must be a list or an object")
    where = describe(node.id, node.type, node.title)
    node.inputs = [_parse_slot(slot, where) for slot in _items(raw, "inputs", where)]
    node.outputs = [_parse_type(slot, where) for slot in _items(raw, "outputs", where)]
    return node


def _slot_number(raw: Any) -> Any:
    """Returns the number of a slot, which the page accepts as text too."""
    return int(raw) if isinstance(raw, str) and SLOT_TEXT.fullmatch(raw) else whole(raw)


LINK_FIELDS = {
    "id": whole, "origin_id": whole, "origin_slot": _slot_number, "target_id": whole, "target_slot": _slot_number
}  # fmt: skip


def _parse_link(raw: list | dict, where: str) -> tuple[int, Link]:
    # lists in schema 0.4; subgraphs and schema 1 have objects
    given = raw if isinstance(raw, list) else [raw.get(key) for key in LINK_FIELDS]
    fields: list[Any] = [read(field) for read, field in zip(LINK_FIELDS.values(), given, strict=False)]
    if len(fields) < 5 or not is_id(fields[1]) or not is_id(fields[3]) or not all(map(is_int, fields[::2])):
        raise WorkflowInvalid(
            f"{where}: a link must have a number, an origin and a target node with slot numbers, not {shown(raw)}"
        )
    return fields[0], Link(str(fields[1]), fields[2], str(fields[3]), fields[4])


def parse_graph(raw: dict, where: str) -> Graph:
    """Parses the root graph or a subgraph's definition; messages call it `where`."""
    nodes: dict[str, Node] = {}
    for raw_node in _items(raw, "nodes", where):
        node = _parse_node(raw_node, where)
        if node.id in nodes:
            raise node.error("another node has the same id: open the workflow in the web page and save it again")
        nodes[node.id] = node
    links: dict[int, Link] = {}
    for raw_link in _items(raw, "links", where, (list, dict)):
        link_id, link = _parse_link(raw_link, where)
        if links.setdefault(link_id, link) != link:
            raise WorkflowInvalid(f"{where}: two links have the number {link_id}")
    if len(nodes) > MAX_NODES or len(links) > MAX_LINKS:
        raise WorkflowInvalid(f"{where} has more than {MAX_NODES} nodes or {MAX_LINKS} links")
    ends = {
        key: [_parse_slot(slot | {"link": None}, where) for slot in _items(raw, key, where)]
        for key in ("inputs", "outputs")
    }
    graph = Graph(where, nodes, links, ends["inputs"], ends["outputs"], [[] for _ in ends["inputs"]])
    _add_everywhere_links(graph, raw.get("extra"))
    _check_links(graph)
    _find_subgraph_ends(graph, raw)
    return graph


def _add_everywhere_links(graph: Graph, extra: Any) -> None:
    """Adds the links that the Use Everywhere pack makes when the page queues, each to an input that has no other."""
    made = extra.get("ue_links") if isinstance(extra, dict) else None
    if not isinstance(made, list):
        senders = [node for node in graph.nodes.values() if node.active and USE_EVERYWHERE.match(node.type)]
        graph.broadcast = frozenset(slot.type for node in senders for slot in node.inputs if slot.link is not None)
        return
    for raw in made:
        fields = raw if isinstance(raw, dict) else {}
        origin, target = (str(fields.get(key)) for key in ("upstream", "downstream"))
        origin_slot, target_slot = (fields.get(f"{end}stream_slot", "") for end in ("up", "down"))
        if not is_int(origin_slot) or not is_int(target_slot) or ":" in origin or ":" in target:
            raise WorkflowInvalid(
                f"{graph.name} has a link of the Use Everywhere pack that only the page can make ({shown(raw)}): turn "
                "such links into real ones (the pack's menu offers that), or export the workflow in the API format"
            )
        link_id = min(graph.links, default=0) - 1
        if target == OUTPUT_PANEL:
            graph.links[link_id] = Link(origin, origin_slot, target, target_slot)
        elif target in graph.nodes and 0 <= target_slot < len(graph.nodes[target].inputs):
            slot = graph.nodes[target].inputs[target_slot]
            if slot.link is None:
                graph.links[link_id] = Link(origin, origin_slot, target, target_slot)
                slot.link = link_id


def _check_links(graph: Graph) -> None:
    for node in graph.nodes.values():
        for slot in node.inputs:
            if slot.link is not None:
                slot.fault = _link_fault(graph, node, slot)


def _link_fault(graph: Graph, node: Node, slot: Slot) -> str | None:
    link = graph.links.get(slot.link) if slot.link is not None else None
    if link is None or link.target != node.id:
        return f"input {shown(slot.name)} refers to link {slot.link}, which does not lead to it: connect it again"
    if link.origin == INPUT_PANEL:
        if not 0 <= link.origin_slot < len(graph.inputs):
            return f"input {shown(slot.name)} is linked to a subgraph input that does not exist: connect it again"
    elif link.origin not in graph.nodes:
        origin = shown(link.origin)
        return f"input {shown(slot.name)} is linked to node {origin}, which does not exist: connect it again"
    return None


def _find_subgraph_ends(graph: Graph, raw: dict) -> None:
    """Notes which inner inputs each subgraph input feeds and which link feeds each output; `linkIds` give the order."""
    order: dict[int, int] = {}
    for key in ("inputs", "outputs"):
        for end in _items(raw, key, graph.name):
            for link_id in _items(end, "linkIds", graph.name, (int, float)):
                order.setdefault(link_id, len(order))
    claimed = {
        slot.link: (node, slot) for node in graph.nodes.values() for slot in node.inputs if slot.link is not None
    }
    for link_id in sorted(graph.links, key=lambda link_id: order.get(link_id, len(order))):
        link = graph.links[link_id]
        if link.origin == INPUT_PANEL and link_id in claimed and not claimed[link_id][1].fault:
            graph.input_targets[link.origin_slot].append(claimed[link_id])
        elif link.target == OUTPUT_PANEL and 0 <= link.target_slot < len(graph.outputs):
            output = graph.outputs[link.target_slot]
            if link.origin not in graph.nodes and link.origin != INPUT_PANEL:
                output.fault = f"{graph.name}: the output {shown(output.name)} is not linked to a node"
            output.link = link_id if output.link is None else output.link


def parse_definitions(document: dict) -> dict[str, Graph]:
    """Parses all subgraph definitions in the file, by id; a definition may hold further ones."""
    definitions: dict[str, Graph] = {}
    holders = [document]
    while holders:
        inner = holders.pop().get("definitions")
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise WorkflowInvalid("`definitions` must be an object")
        for raw in _items(inner, "subgraphs", "definitions"):
            key = raw.get("id")
            if not isinstance(key, str) or not key or key in definitions:
                raise WorkflowInvalid(f"the id of a subgraph definition is missing or not unique ({shown(key)})")
            definitions[key] = parse_graph(raw, f"subgraph {shown(raw.get('name') or key)}")
            holders.append(raw)
    _check_nesting(definitions)
    return definitions


def _check_nesting(definitions: Mapping[str, Graph]) -> None:
    # each round closes the definitions that use none of the open ones: one level of nesting
    open_keys = set(definitions)
    for _ in range(MAX_NESTING):
        open_keys = {
            key for key in open_keys if any(node.type in open_keys for node in definitions[key].nodes.values())
        }
    if open_keys:
        name = definitions[min(open_keys)].name
        raise WorkflowInvalid(f"{name} contains itself, or is nested more than {MAX_NESTING} deep: break it up")
