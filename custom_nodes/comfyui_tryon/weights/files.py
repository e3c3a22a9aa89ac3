"""Lists the published weight files: the repositories that hold them and which of their files are needed.

Imports nothing but the standard library, so that the image's download stage needs no other part of this package.
"""

from collections.abc import Mapping, Sequence

BASE = "stable-diffusion-v1-5/stable-diffusion-inpainting"
VAE = "stabilityai/sd-vae-ft-mse"
CATVTON = "zhengchong/CatVTON"
SEGFORMER = "mattmdjaga/segformer_b2_clothes"

# Repositories that are gone or unmaintained, and the one that serves the same files.
MOVED = {
    "runwayml/stable-diffusion-inpainting": BASE,
    "booksforcharlie/stable-diffusion-inpainting": BASE,
}

LICENCES = {
    BASE: "CreativeML Open RAIL-M",
    VAE: "MIT",
    CATVTON: "CC BY-NC-SA 4.0, not for commercial use",
    SEGFORMER: "see its model card, not for commercial use",
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


def to_download(attention: Sequence[str] = ("mix",), segformer: bool = False) -> Mapping[str, Needed]:
    """Returns what a download fetches, by repository: the files of the bundled workflows, and the options chosen."""
    attentions = [names for version in attention for names in attention_files(version)]
    wanted = {
        BASE: [*base_files(), ["scheduler/scheduler_config.json"]],
        VAE: vae_files(),
        CATVTON: [*attentions, *parser_files("schp_densepose")],
    }
    return wanted | ({SEGFORMER: parser_files("segformer")} if segformer else {})


def download_options(path: str, name: str) -> str | None:
    """Returns the options of the download that fetches file `name` of a node's `path`, or None if none does."""
    version = next((version for version, folder in ATTENTION_FOLDERS.items() if name.startswith(f"{folder}/")), "mix")
    for repository, needed in to_download([version], segformer=True).items():
        if path.rsplit("/", 1)[-1] == repository.rsplit("/", 1)[-1] and any(name in names for names in needed):
            if repository == SEGFORMER:
                return repository
            return "" if version == "mix" else f"--attention {version}"
    return None
