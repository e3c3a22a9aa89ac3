"""Reads the published weight files into a `CatVTONPipeline`, strictly: every tensor is used or the file refused."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .blocks import replace_blocks, replace_layers
from .pipeline import CatVTONPipeline

ATTENTION_FOLDERS = {"mix": "mix-48k-1024", "vitonhd": "vitonhd-16k-512", "dresscode": "dresscode-16k-512"}
ATTENTION_TENSORS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")

# sd-vae-ft-mse was saved before diffusers renamed its attention layers
VAE_RENAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class CheckpointError(ValueError):
    """A weight file is damaged or holds another model; the message names the file."""


class PassThrough(torch.nn.Module):
    """Stands where cross-attention was: returns its input, so that a block adds `norm2(h)` to `h`.

    CatVTON skips cross-attention (paper section 3.2) by a processor that returns its input. Removing the block whole
    would skip the normalisation and the residual around it too, which is another function.
    """

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


def _weights_file(folder: Path, dtype: torch.dtype) -> Path:
    full = [folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
    half = [folder / f"diffusion_pytorch_model.fp16.{suffix}" for suffix in ("safetensors", "bin")]
    candidates = [*half, *full] if dtype == torch.float16 else [full[0], half[0], full[1], half[1]]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{full[0]} is missing.")


def load_pipeline(
    base: Path,
    vae: Path,
    catvton: Path,
    attention_version: str = "mix",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
) -> CatVTONPipeline:
    """Builds the pipeline from folders in the published layout, on the CPU.

    Tensors that are stored in `dtype` stay mapped to their safetensors file: they are read when they are first used, or
    straight to the device that the pipeline is moved to.

    Args:
        base: the inpainting model, with `unet/`.
        vae: the VAE's folder (sd-vae-ft-mse).
        catvton: CatVTON's folder, with `mix-48k-1024/attention/model.safetensors` and its siblings.
        attention_version: mix, vitonhd or dresscode.
        dtype: float32, float16 or bfloat16.
        compile: compile the UNet with torch.compile, once for every size and number of images.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        CheckpointError: a file is damaged or does not fit; the message names it.
    """
    # 4 s to import, which ComfyUI's start would wait for if it were done above
    from diffusers import AutoencoderKL, UNet2DConditionModel

    attention = catvton / ATTENTION_FOLDERS[attention_version] / "attention" / "model.safetensors"
    unet = _empty_model(UNet2DConditionModel, base / "unet", in_channels=9, out_channels=4)
    remove_cross_attention(unet)
    weights_path = _weights_file(base / "unet", dtype)
    weights = {key: tensor for key, tensor in _read(weights_path).items() if ".attn2." not in key}
    weights.update(read_attention(attention, attention_modules(unet)))
    fuse_projections(unet)
    replace_blocks(unet)
    for name in attention_modules(unet):
        parts = [weights.pop(f"{name}.to_{part}.weight").to(dtype) for part in "qkv"]
        weights[f"{name}.to_qkv.weight"] = torch.cat(parts)
    _fill(unet, weights, weights_path, dtype)
    if compile:
        unet.to(memory_format=torch.channels_last).compile(dynamic=False)

    autoencoder = _empty_model(AutoencoderKL, vae, latent_channels=4)
    weights_path = _weights_file(vae, dtype)
    weights = {_rename_vae(key): tensor for key, tensor in _read(weights_path).items()}
    replace_layers(autoencoder)
    _fill(autoencoder, weights, weights_path, dtype)
    return CatVTONPipeline(unet, autoencoder).eval().requires_grad_(False)


def remove_cross_attention(unet: torch.nn.Module) -> None:
    """Puts a `PassThrough`, which has no parameters, in the place of every cross-attention module."""
    for name in [name for name, _ in unet.named_modules() if name.endswith(".attn2")]:
        unet.set_submodule(name, PassThrough())


def fuse_projections(unet: Any) -> None:
    """Makes one projection, `to_qkv`, of each self-attention's three; `unet` is a diffusers UNet2DConditionModel."""
    unet.fuse_qkv_projections()
    for module in attention_modules(unet).values():
        del module.to_q, module.to_k, module.to_v


def attention_modules(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns the self-attention modules by name, in the order of the published attention files: down, up, mid."""
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    found = [(name, module) for name, module in unet.named_modules() if name.endswith(".attn1")]
    return dict(sorted(found, key=lambda item: order[item[0].split(".")[0]]))


def read_attention(path: Path, modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Reads an attention file; returns its tensors under the UNet's own names.

    The file numbers its tensors `{index}.to_q.weight` and so on, where the index counts submodules as they were when it
    was saved (8 per attention module in the published files, 7 without processors); only its rank matters. Names of
    the same tensors under a submodule's own index (`{index + 1}.weight`, ...) may accompany them and are passed over.

    Args:
        path: the file.
        modules: the UNet's `attention_modules`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or its tensors are not those of `modules`.
    """
    by_index: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in _read(path).items():
        index, _, name = key.partition(".")
        if not index.isdigit() or not re.fullmatch(r"(0\.)?(weight|bias)|" + "|".join(ATTENTION_TENSORS), name):
            raise CheckpointError(f"{path}: {key!r} is not a tensor of CatVTON's attention weights. Download it again.")
        if name in ATTENTION_TENSORS:
            by_index.setdefault(int(index), {})[name] = tensor
    expected = len(modules) * len(ATTENTION_TENSORS)
    count = sum(len(tensors) for tensors in by_index.values())
    if len(by_index) != len(modules) or count != expected:
        raise CheckpointError(
            f"{path}: holds {count} attention tensors for {len(by_index)} modules, where the model has {expected} for "
            f"{len(modules)}. Download it again."
        )
    renamed = {}
    for (_, tensors), (module_name, module) in zip(sorted(by_index.items()), modules.items()):
        for name, tensor in tensors.items():
            shape = module.get_parameter(name).shape
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{path}: {name} for {module_name} has shape {tuple(tensor.shape)}, where the model has "
                    f"{tuple(shape)}. It belongs to another base model."
                )
            renamed[f"{module_name}.{name}"] = tensor
    return renamed


def _empty_model(cls: Any, folder: Path, **channels: int) -> torch.nn.Module:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):  # diffusers would take text for a repository, and ask the hub for it
            raise TypeError("it is no JSON object")
        with torch.device("meta"):
            model = cls.from_config(config)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing.") from None
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a configuration of {cls.__name__} ({error}). Download it again.") from None
    for name, wanted in channels.items():
        if model.config[name] != wanted:
            raise CheckpointError(
                f"{path}: {name} is {model.config[name]}, where CatVTON needs {wanted}. Its base is an inpainting "
                "model, such as stable-diffusion-inpainting, and its VAE that of Stable Diffusion 1.5."
            )
    return model


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # torch's older format cannot be mapped
        entries = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(entries, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in entries.items()
        ):
            raise TypeError("it holds something else than tensors by name")
        return entries
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason}). Download it again.") from None


def _fill(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    problems = [f"lacks {key}" for key in shapes if key not in weights]
    problems += [f"has an unknown {key}" for key in weights if key not in shapes]
    problems += [
        f"has {key} of shape {tuple(weights[key].shape)} instead of {tuple(shape)}"
        for key, shape in shapes.items()
        if key in weights and weights[key].shape != shape
    ]
    problems += [f"has {key} of {tensor.dtype}" for key, tensor in weights.items() if not tensor.is_floating_point()]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{path}: {'; '.join(problems[:3])}{more}. It holds another model or is damaged.")
    model.load_state_dict({key: tensor.to(dtype) for key, tensor in weights.items()}, strict=True, assign=True)


def _rename_vae(key: str) -> str:
    for old, new in VAE_RENAMES.items():
        key = key.replace(old, new)
    return key
