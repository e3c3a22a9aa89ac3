"""A converted workflow in which single nodes may be faulty: what no output depends on never keeps it from serving."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import NodeClasses, WorkflowInvalid, describe, has_output, shown
from .missing import ClassMissing, all_missing


@dataclass(frozen=True)
class Draft:
    """The outcome of a conversion.

    Attributes:
        prompt: ComfyUI's API prompt with all active nodes, those of `faults` with the inputs that are known.
        faults: by node id, why a node cannot be executed as it is.
        node_classes: the classes that it was converted with.
        app: the page's `extra.linearData`, in which app mode names inputs and outputs; None if there is none.
        bypassed: how messages name the nodes with several links in that the page bypasses.
    """

    prompt: dict[str, dict]
    faults: Mapping[str, WorkflowInvalid]
    node_classes: NodeClasses
    app: Any = None
    bypassed: Sequence[str] = ()

    def check(self, graph: Mapping[str, dict]) -> None:
        """Checks the part of the prompt that is to be executed; a node that became one of another class is sound.

        Args:
            graph: nodes of the prompt by id, with all that they depend on.

        Raises:
            WorkflowInvalid: it names the nodes that cannot be executed: all that are missing, or else the first
                that has another fault, has a link to an output that does not exist, or depends on itself.
        """
        self._raise(
            fault
            for node_id, fault in self.faults.items()
            if node_id in graph and graph[node_id]["class_type"] == self.prompt[node_id]["class_type"]
        )
        _check_links(graph, self.node_classes)

    def explained(self, error: WorkflowInvalid) -> WorkflowInvalid:
        """Returns an error about the graph together with the faults of single nodes, which may be its cause."""
        try:
            self._raise(self.faults.values())
        except WorkflowInvalid as cause:
            return WorkflowInvalid(f"{error}. Its nodes have faults as well: {cause}")
        return error

    @staticmethod
    def _raise(faults: Iterable[WorkflowInvalid]) -> None:
        found = list(faults)
        absent = [fault for fault in found if isinstance(fault, ClassMissing)]
        if absent:
            raise all_missing(absent)
        if found:
            raise found[0]


def without_dangling_links(prompt: dict[str, dict]) -> dict[str, WorkflowInvalid]:
    """Removes links to nodes that do not exist from `prompt`; returns a fault for each node that had one."""
    faults: dict[str, WorkflowInvalid] = {}
    for node_id, node in prompt.items():
        for name, value in list(node["inputs"].items()):
            if isinstance(value, list) and value[0] not in prompt:
                del node["inputs"][name]
                faults.setdefault(
                    node_id,
                    WorkflowInvalid(
                        f"{_described(prompt, node_id)}: input {shown(name)} is linked to node {shown(value[0])}, "
                        "which does not exist: connect it again"
                    ),
                )
    return faults


def _described(prompt: Mapping[str, dict], node_id: str) -> str:
    return describe(node_id, prompt[node_id]["class_type"], prompt[node_id]["_meta"]["title"])


def _check_links(prompt: Mapping[str, dict], node_classes: NodeClasses) -> None:
    """Refuses links to outputs that do not exist, and nodes that depend on themselves."""
    consumers: dict[str, list[str]] = {node_id: [] for node_id in prompt}
    waiting = dict.fromkeys(prompt, 0)
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                continue
            origin, slot = value
            if not has_output(node_classes.get(prompt[origin]["class_type"]), slot):
                raise WorkflowInvalid(
                    f"{_described(prompt, node_id)}: input {shown(name)} is linked to output {slot} of "
                    f"{describe(origin, prompt[origin]['class_type'])}, which has no such output: connect it again"
                )
            consumers[origin].append(node_id)
            waiting[node_id] += 1
    # Takes away nodes that wait for nothing until none is left; those that stay are in a loop or behind one.
    ready = [node_id for node_id, count in waiting.items() if not count]
    while ready:
        for consumer in consumers[ready.pop()]:
            waiting[consumer] -= 1
            if not waiting[consumer]:
                ready.append(consumer)
    for node_id, count in waiting.items():
        if count:
            raise WorkflowInvalid(
                f"{_described(prompt, node_id)} is in, or depends on, a loop of links: remove one of them"
            )
