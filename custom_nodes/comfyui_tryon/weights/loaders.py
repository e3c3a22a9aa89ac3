"""Declares the loader nodes' inputs that choose weight files, their defaults, and the files that a choice needs.

Imports no torch: the nodes take their defaults from here, and the start check reads them before anything heavy is
loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .files import ATTENTION_FOLDERS, BASE, CATVTON, VAE, Needed, attention_files, base_files, parser_files, vae_files

# The first of each is the default.
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
ATTENTION_VERSIONS = tuple(ATTENTION_FOLDERS)
PARSERS = ("schp_densepose", "segformer", "geometric")

# A node's path input, and the files needed from the folder that it names.
Needs = Sequence[tuple[str, Needed]]


@dataclass(frozen=True)
class Loader:
    """Describes a node class that loads published weights.

    Attributes:
        defaults: its inputs up to the last one that chooses files, in the order in which the web page saves them.
        needs: returns what a value for each of them, by name, needs.
    """

    defaults: Mapping[str, str]
    needs: Callable[..., Needs]


def pipeline_needs(
    sd15_inpaint_path: str, catvton_path: str, attention_version: str, vae_path: str, mixed_precision: str = "auto"
) -> Needs:
    """Returns the needs of the inpainting model, the VAE and CatVTON; `mixed_precision` does not change them."""
    return [
        (sd15_inpaint_path, base_files()),
        (vae_path, vae_files()),
        (catvton_path, attention_files(attention_version)),
    ]


def masker_needs(catvton_path: str, parser: str) -> Needs:
    """Returns the needs of one of `PARSERS`; geometric has none."""
    return [] if parser == "geometric" else [(catvton_path, parser_files(parser))]


LOADERS = {
    "TryOnLoadCatVTON": Loader(
        {
            "sd15_inpaint_path": BASE,
            "catvton_path": CATVTON,
            "mixed_precision": PRECISIONS[0],
            "attention_version": ATTENTION_VERSIONS[0],
            "vae_path": VAE,
        },
        pipeline_needs,
    ),
    "TryOnLoadAutoMasker": Loader({"catvton_path": CATVTON, "parser": PARSERS[0]}, masker_needs),
}
LOADERS |= {  # their names in the published pack
    "LoadCatVTONPipeline": LOADERS["TryOnLoadCatVTON"],
    "LoadAutoMasker": LOADERS["TryOnLoadAutoMasker"],
}
