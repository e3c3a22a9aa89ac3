"""Declares the loader nodes' inputs that choose weight files, their defaults, and the files that a choice needs.

Imports no torch: the nodes take their defaults from here, and the start check reads them before anything heavy is
loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .files import (
    ATTENTION_FOLDERS,
    BASE,
    CATVTON,
    DWPOSE,
    FASHN,
    SEGFORMER,
    VAE,
    Needed,
    attention_files,
    base_files,
    fashn_files,
    parser_files,
    vae_files,
)

# The first of each is the default.
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
ATTENTION_VERSIONS = tuple(ATTENTION_FOLDERS)
PARSERS = ("schp_densepose", "segformer", "geometric")
CHOICES = {"attention_version": ATTENTION_VERSIONS, "parser": PARSERS}  # by input, of those that choose files

# A node's path input, and the files needed from the folder that it names.
Needs = Sequence[tuple[str, Needed]]


@dataclass(frozen=True)
class Loader:
    """Describes a node class that loads published weights.

    Attributes:
        defaults: its inputs up to the last one that chooses files, in the order in which the web page saves them.
        needs: returns what a value for each of them, by name, needs.
        sources: returns the repositories that publish what a value for each of them, by name, loads.
    """

    defaults: Mapping[str, str]
    needs: Callable[..., Needs]
    sources: Callable[..., Sequence[str]]


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


def pipeline_sources(**inputs: str) -> Sequence[str]:
    return [BASE, VAE, CATVTON]


def masker_sources(catvton_path: str, parser: str) -> Sequence[str]:
    return {"schp_densepose": [CATVTON], "segformer": [SEGFORMER]}.get(parser, [])


def fashn_needs(fashn_path: str) -> Needs:
    """Returns the needs of FASHN VTON without its human parser, which is optional."""
    return [(fashn_path, fashn_files())]


def fashn_sources(fashn_path: str) -> Sequence[str]:
    return [FASHN, DWPOSE]


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
        pipeline_sources,
    ),
    "TryOnLoadAutoMasker": Loader({"catvton_path": CATVTON, "parser": PARSERS[0]}, masker_needs, masker_sources),
    "TryOnLoadFashn": Loader({"fashn_path": FASHN}, fashn_needs, fashn_sources),
}
LOADERS |= {  # their names in the published pack
    "LoadCatVTONPipeline": LOADERS["TryOnLoadCatVTON"],
    "LoadAutoMasker": LOADERS["TryOnLoadAutoMasker"],
}
