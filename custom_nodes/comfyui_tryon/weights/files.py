"""Lists the published weight files: the repositories that hold them and which of their files are needed.

Imports nothing but the standard library, so that the image's download stage needs no other part of this package.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

BASE = "stable-diffusion-v1-5/stable-diffusion-inpainting"
VAE = "stabilityai/sd-vae-ft-mse"
CATVTON = "zhengchong/CatVTON"
SEGFORMER = "mattmdjaga/segformer_b2_clothes"
FASHN = "fashn-ai/fashn-vton-1.5"
DWPOSE = "fashn-ai/DWPose"
HUMAN_PARSER = "fashn-ai/fashn-human-parser"

# Repositories that are gone or unmaintained, and the one that serves the same files.
MOVED = {
    "runwayml/stable-diffusion-inpainting": BASE,
    "booksforcharlie/stable-diffusion-inpainting": BASE,
}

# Where a repository's files go under the models folder, if not to a folder of its name.
FOLDERS = {DWPOSE: "fashn-vton-1.5/dwpose", HUMAN_PARSER: "fashn-vton-1.5/human-parser"}


class Licence(NamedTuple):
    """States under which terms weights may be used."""

    name: str
    commercial_use: bool

    def __str__(self) -> str:
        return self.name if self.commercial_use else f"{self.name}, not for commercial use"


LICENCES = {
    BASE: Licence("CreativeML Open RAIL-M", True),
    VAE: Licence("MIT", True),
    CATVTON: Licence("CC BY-NC-SA 4.0", False),
    SEGFORMER: Licence("see its model card", False),
    FASHN: Licence("Apache-2.0", True),
    DWPOSE: Licence("Apache-2.0", True),
    HUMAN_PARSER: Licence("NVIDIA Source Code License for SegFormer", False),
}

# catvton/ and masker/ hold these names too: importing them from there would load torch, and models know nothing of
# downloads. tests/tools/test_download.py compares both.
ATTENTION_FOLDERS = {"mix": "mix-48k-1024", "vitonhd": "vitonhd-16k-512", "dresscode": "dresscode-16k-512"}
FULL = [f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
HALF = [f"diffusion_pytorch_model.fp16.{suffix}" for suffix in ("safetensors", "bin")]
MASKER_NAMES = [
    "SCHP/exp-schp-201908301523-atr.pth",
    "SCHP/exp-schp-201908261155-lip.pth",
    "DensePose/model_final_162be9.pkl",
]

DWPOSE_NAMES = ["yolox_l.onnx", "dw-ll_ucoco_384.onnx"]
PARSER_FOLDER = "human-parser"
# What a download can be asked for besides repositories. The last has terms that a user has to know: only by its name.
MODELS = ("catvton", "fashn", "fashn-human-parser")

# One entry per file: the names that it may have, best first.
Needed = Sequence[Sequence[str]]


def base_files() -> Needed:
    return [["unet/config.json"], [f"unet/{name}" for name in (HALF[0], FULL[0], HALF[1], FULL[1])]]


def vae_files() -> Needed:
    return [["config.json"], [FULL[0], HALF[0], FULL[1], HALF[1]]]


def attention_files(version: str) -> Needed:
    """Returns the file of one attention version: mix, vitonhd or dresscode."""
    return [[f"{ATTENTION_FOLDERS[version]}/attention/model.safetensors"]]


def parser_files(parser: str) -> Needed:
    """Returns the files of schp_densepose or segformer."""
    if parser == "segformer":
        return [["config.json"], ["model.safetensors", "pytorch_model.bin"]]
    return [[name] for name in MASKER_NAMES]


def fashn_files() -> Needed:
    return [["model.safetensors"], *([f"dwpose/{name}"] for name in DWPOSE_NAMES)]


def human_parser_files() -> Needed:
    return [["config.json"], ["model.safetensors"]]


def folder_of(repository: str) -> str:
    """Returns the folder of a repository's files, relative to the models folder."""
    return FOLDERS.get(repository, repository.rsplit("/", 1)[-1])


def to_download(
    attention: Sequence[str] = ("mix",), segformer: bool = False, models: Sequence[str] = MODELS[:1]
) -> Mapping[str, Needed]:
    """Returns what a download of some of `MODELS` fetches, by repository, with the options chosen."""
    wanted: dict[str, Needed] = {}
    if "catvton" in models:
        attentions = [names for version in attention for names in attention_files(version)]
        wanted |= {
            BASE: [*base_files(), ["scheduler/scheduler_config.json"]],
            VAE: vae_files(),
            CATVTON: [*attentions, *parser_files("schp_densepose")],
        }
    if segformer:
        wanted[SEGFORMER] = parser_files("segformer")
    if "fashn" in models:
        wanted |= {FASHN: [["model.safetensors"]], DWPOSE: [[name] for name in DWPOSE_NAMES]}
    if "fashn-human-parser" in models:
        wanted[HUMAN_PARSER] = human_parser_files()
    return wanted


def download_options(path: str, name: str) -> str | None:
    """Returns the options of the download that fetches file `name` of a node's `path`, or None if none does."""
    version = next((version for version, folder in ATTENTION_FOLDERS.items() if name.startswith(f"{folder}/")), "mix")
    wanted = f"{path.rsplit('/', 1)[-1]}/{name}"
    for repository, needed in to_download([version], segformer=True, models=MODELS).items():
        if any(wanted == f"{folder_of(repository)}/{file}" for names in needed for file in names):
            return options_of(repository, version)
    return None


def options_of(repository: str, version: str = "mix") -> str:
    """Returns the options of the download that fetches a repository, with an attention version of CatVTON's."""
    if repository == SEGFORMER:
        return repository
    if repository in (FASHN, DWPOSE):
        return "fashn"
    if repository == HUMAN_PARSER:
        return "fashn-human-parser"
    return "" if version == "mix" else f"--attention {version}"
