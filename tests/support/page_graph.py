"""Builds graphs as ComfyUI's web page saves them, for tests: nodes by number, links by what they connect."""

from typing import Any

from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS

INNER = "0b5fa10c-52f4-4a6f-9a44-3c3f7c1de001"


class PageGraph:
    """The root graph, or the inside of a subgraph (`key`), whose two ends are the nodes -10 and -20."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.nodes: dict[int, dict] = {}
        self.links: list[tuple[int, int, int, int, str]] = []
        self.subgraphs: list[PageGraph] = []
        self.extra: dict[str, Any] = {}
        self.ends: dict[str, list[dict]] = {"inputs": [], "outputs": []}

    def node(
        self,
        number: int,
        kind: str,
        inputs: str = "",
        outputs: str = "",
        values: Any = None,
        **more: Any,
    ) -> "PageGraph":
        """Adds a node; `inputs` and `outputs` are like "image:IMAGE steps:INT", with a ! for a widget's input."""
        slots = [_slot(text) for text in inputs.split()]
        made = {"id": number, "type": kind, "mode": 0, "pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0}
        made |= {"inputs": slots, "outputs": [_slot(text) | {"links": []} for text in outputs.split()]}
        made |= {"properties": {"Node name for S&R": kind}}
        self.nodes[number] = made | ({} if values is None else {"widgets_values": values}) | more
        return self

    def link(self, origin: int, origin_slot: int, target: int, name: str | int) -> "PageGraph":
        """Connects an output with an input, given by its name, or by its place at a subgraph's end."""
        number = len(self.links) + 1
        kind = "*"
        if target == -20:
            slot = int(name)
            self.ends["outputs"][slot]["linkIds"].append(number)
        else:
            slots = self.nodes[target]["inputs"]
            slot = next(index for index, found in enumerate(slots) if found["name"] == name)
            slots[slot]["link"], kind = number, slots[slot]["type"]
        if origin == -10:
            self.ends["inputs"][origin_slot]["linkIds"].append(number)
        else:
            self.nodes[origin]["outputs"][origin_slot]["links"].append(number)
        self.links.append((origin, origin_slot, target, slot, kind))
        return self

    def end(self, side: str, name: str, kind: str) -> "PageGraph":
        """Adds an input or output to a subgraph."""
        self.ends[side].append({"id": f"{side}-{name}", "name": name, "type": kind, "linkIds": []})
        return self

    def document(self) -> dict:
        """Returns what the page would write."""
        made: dict[str, Any] = {"last_node_id": 99, "last_link_id": 99, "groups": [], "config": {}, "version": 0.4}
        made |= {"nodes": list(self.nodes.values()), "extra": self.extra}
        numbered = list(enumerate(self.links, 1))
        if self.key is None:
            made["links"] = [[number, *link] for number, link in numbered]
            if self.subgraphs:
                made["definitions"] = {"subgraphs": [graph.document() for graph in self.subgraphs]}
            return made
        names = ("origin_id", "origin_slot", "target_id", "target_slot", "type")
        made["links"] = [{"id": number, **dict(zip(names, link, strict=True))} for number, link in numbered]
        panels = {
            "inputNode": {"id": -10, "bounding": [0, 0, 1, 1]},
            "outputNode": {"id": -20, "bounding": [0, 0, 1, 1]},
        }
        state = {"lastGroupId": 0, "lastNodeId": 99, "lastLinkId": 99, "lastRerouteId": 0}
        return (
            made | self.ends | panels | {"id": self.key, "name": "Inner", "version": 1, "state": state, "widgets": []}
        )


def _slot(text: str) -> dict:
    name, _, kind = text.strip("!").rpartition(":")
    name = name.replace("~", " ")
    return {"name": name, "type": kind, "link": None} | ({"widget": {"name": name}} if text.endswith("!") else {})


def node_class(required: dict, outputs: tuple = ("IMAGE",), optional: dict = {}) -> type:
    spec = {"required": required, "optional": optional}
    return type("Node", (), {"INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": outputs})


INT = ("INT", {"default": 1, "max": 4096})
FLOAT = ("FLOAT", {"default": 1.0})
SEED = ("INT", {"default": 0, "control_after_generate": True})
# As in ComfyUI, whose page the expected prompts were compared with.
CLASSES: dict[str, type] = {
    **NODE_CLASS_MAPPINGS,
    "LoadImage": node_class({"image": (["a.png"], {"image_upload": True})}, ("IMAGE", "MASK")),
    "ImageBlend": node_class(
        {"image1": ("IMAGE",), "image2": ("IMAGE",), "blend_factor": FLOAT, "blend_mode": (["normal", "screen"],)}
    ),
    "ImageInvert": node_class({"image": ("IMAGE",)}),
    "ImageBlur": node_class({"image": ("IMAGE",), "blur_radius": INT, "sigma": FLOAT}),
    "ImageScaleBy": node_class({"image": ("IMAGE",), "upscale_method": (["area", "lanczos"],), "scale_by": FLOAT}),
    "EmptyImage": node_class({"width": INT, "height": INT, "batch_size": INT, "color": ("INT", {"default": 0})}),
    "PrimitiveInt": node_class({"value": SEED}, ("INT",)),
    "SaveImage": node_class({"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}, ()),
    "PreviewImage": node_class({"images": ("IMAGE",)}, ()),
}


def base(person_linked: bool = False, titles: tuple = ("Target Person", "Reference Garment")) -> PageGraph:
    """Two LoadImages into an ImageBlend into a SaveImage, or all of it but the person's link."""
    graph = PageGraph()
    for number, (title, file) in enumerate(zip(titles, ("a.png", "b.png"), strict=True), 1):
        graph.node(
            number, "LoadImage", "", "IMAGE:IMAGE MASK:MASK", [file, "image"], **({"title": title} if title else {})
        )
    graph.node(3, "ImageBlend", "image1:IMAGE image2:IMAGE", "IMAGE:IMAGE", [0.5, "normal"])
    graph.node(4, "SaveImage", "images:IMAGE", "", ["x"])
    graph.link(2, 0, 3, "image2").link(3, 0, 4, "images")
    return graph.link(1, 0, 3, "image1") if person_linked else graph


def set_get(
    graph: PageGraph, name: str = "p", setter: str = "SetNode", getter: str = "GetNode", at: int = 30
) -> PageGraph:
    graph.node(at, setter, "IMAGE:IMAGE", "*:*", [name], title=f"Set_{name}", properties={"previousName": name})
    return graph.node(at + 1, getter, "", "IMAGE:IMAGE", [name], title=f"Get_{name}")


def inverting(key: str = INNER) -> PageGraph:
    """A subgraph that inverts its image."""
    inner = PageGraph(key).end("inputs", "image", "IMAGE").end("outputs", "IMAGE", "IMAGE")
    inner.node(5, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    return inner.link(-10, 0, 5, "image").link(5, 0, -20, 0)
