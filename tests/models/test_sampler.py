"""The sampler computes CatVTON's published function, and refuses weights that are not CatVTON's."""

import copy
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from comfyui_tryon.catvton import CatVTONPipeline, CheckpointError, interruption, load_pipeline
from comfyui_tryon.catvton import pipeline as published
from comfyui_tryon.catvton.checkpoint import PassThrough, attention_modules
from comfyui_tryon.catvton.pipeline import images_together, working_memory
from comfyui_tryon.catvton.processing import blur_mask, resize_and_crop, resize_and_pad
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.framing.paste import repaint
from comfyui_tryon.seeds import generator
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from support import reference
from support.images import psnr
from support.parity import CHECKPOINT, sampler_cases

SIZE = 64, 96  # width and height of what most tests sample
ATTENTION = "CatVTON/mix-48k-1024/attention/model.safetensors"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Small weights in the published layout; attention and norm2 random, so that a mistake with either shows."""
    folder = checkpoint.write(tmp_path_factory.mktemp("checkpoint"))
    unet = folder / "stable-diffusion-inpainting/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        if ".norm2." in name and "transformer_blocks" in name:
            weights[name] = tensor + torch.randn(tensor.shape, generator=generator)
    save_file(weights, unet)
    attention = load_file(folder / ATTENTION)
    for name, tensor in attention.items():
        attention[name] = torch.randn(tensor.shape, generator=generator) * 2 / tensor.shape[-1] ** 0.5
    save_file(attention, folder / ATTENTION)
    vae = folder / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
    weights = load_file(vae)
    weights["quant_conv.weight"][4:] = 0
    weights["quant_conv.bias"][4:] = -60  # a posterior without spread: its sample is its mode
    save_file(weights, vae)
    return folder


def load(folder, **options):
    return load_pipeline(
        folder / "stable-diffusion-inpainting", folder / "sd-vae-ft-mse", folder / "CatVTON", **options
    )


@pytest.fixture(scope="session")
def pipeline(folder):
    return load(folder)


@pytest.fixture(scope="session")
def plain(folder):
    """The published sampler with its own UNet and VAE, loaded by diffusers."""
    unet = UNet2DConditionModel.from_pretrained(folder / "stable-diffusion-inpainting/unet", low_cpu_mem_usage=False)
    attention = load_file(folder / ATTENTION)
    indices = sorted({int(key.split(".")[0]) for key in attention})
    blocks = [name for part in ("down", "up", "mid") for name, _ in unet.named_modules()
              if name.startswith(part) and name.endswith(".attn1")]  # fmt: skip
    renamed = {f"{block}.{key.partition('.')[2]}": tensor for index, block in zip(indices, blocks)
               for key, tensor in attention.items() if int(key.split(".")[0]) == index}  # fmt: skip
    assert len(renamed) == 90 and not unet.load_state_dict(renamed, strict=False).unexpected_keys
    vae = AutoencoderKL.from_pretrained(folder / "sd-vae-ft-mse", low_cpu_mem_usage=False).eval()
    return reference.Published(reference.skip_cross_attention(unet), vae)


@pytest.fixture(scope="session")
def case():
    random = np.random.default_rng(5)
    images = [Image.fromarray(random.integers(0, 255, (12, 8, 3), np.uint8)).resize(SIZE, 3) for _ in range(2)]
    mask = Image.new("L", SIZE)
    mask.paste(255, (15, 25, 50, 75))
    return *images, mask


def sample(pipeline, case, **options):
    options = dict(num_inference_steps=4, seeds=[11], width=SIZE[0], height=SIZE[1], mask_blur=0) | options
    return pipeline(*case, **options)[0].numpy()


@pytest.mark.parametrize("guidance", [1.0, 2.5, 6.0])
def test_it_is_the_published_function(pipeline, plain, case, guidance):
    expected = plain.sample(*case, steps=4, guidance=guidance, seed=11)
    assert psnr(sample(pipeline, case, guidance_scale=guidance), expected) > 60


@pytest.mark.parametrize("mistake", ["norm2 left out", "attention not applied", "mid before up", "eta 0"])
def test_the_comparison_sees_the_usual_mistakes(folder, plain, case, mistake, monkeypatch):
    pipeline = load(folder)
    if mistake == "norm2 left out":
        monkeypatch.setattr(
            PassThrough, "forward", lambda self, hidden_states, *a, **k: torch.zeros_like(hidden_states)
        )
    elif mistake == "attention not applied":
        for module in attention_modules(pipeline.unet).values():
            torch.nn.init.normal_(module.to_qkv.weight, std=0.2)
    elif mistake == "mid before up":
        modules = list(attention_modules(pipeline.unet).values())
        states = [{key: value.clone() for key, value in module.state_dict().items()} for module in modules]
        width = modules[-1].to_qkv.weight.shape
        same = [index for index, module in enumerate(modules) if module.to_qkv.weight.shape == width]
        for index, source in zip(same, same[-1:] + same[:-1]):
            modules[index].load_state_dict(states[source])
    else:
        monkeypatch.setattr("comfyui_tryon.catvton.pipeline.ETA", 0.0)
    expected = plain.sample(*case, steps=4, guidance=2.5, seed=11)
    assert psnr(sample(pipeline, case), expected) < 50


@pytest.mark.parametrize("case", sampler_cases(), ids=lambda case: case.name)
def test_golden_images_of_the_published_code(case):
    settings = json.loads((case / "case.json").read_text())
    pipeline = load(CHECKPOINT, attention_version=settings["version"])
    images = [Image.open(case / f"{part}.png") for part in ("person", "garment", "mask")]
    result = pipeline(
        *images,
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        seeds=[settings["seed"]],
        width=settings["width"],
        height=settings["height"],
        mask_blur=0,
    )
    assert psnr(result[0].numpy(), np.array(Image.open(case / "output.png"))) >= 60


def test_half_precision_is_close(folder, pipeline, case):
    options = dict(num_inference_steps=2)
    exact = sample(pipeline, case, **options)
    for dtype, limit in ((torch.float16, 30), (torch.bfloat16, 18)):
        assert psnr(sample(load(folder, dtype=dtype), case, **options), exact) > limit


@pytest.mark.parametrize("together", [1, 3])
def test_a_seed_is_the_same_image_alone_and_among_others(pipeline, case, together, monkeypatch):
    options = dict(num_inference_steps=2, width=SIZE[0], height=SIZE[1])
    monkeypatch.setattr("comfyui_tryon.catvton.pipeline.images_together", lambda *size: together)
    done = []
    images = pipeline(*case, seeds=[3, 4, 5, 6], **options, callback=lambda step, latents: done.append(step))
    # numbers come again within the VAE's work
    assert [step for step, _ in itertools.groupby(done)] == {1: list(range(9)), 3: [0, 3, 6, 7, 8]}[together]
    for seed, image in zip([3, 4, 5, 6], images.numpy()):
        alone = pipeline(*case, seeds=[seed], **options)[0].numpy()
        assert np.array_equal(image, alone) if together == 1 else psnr(image, alone) > 60
        assert sum(psnr(image, other) > 60 for other in images.numpy()) == 1


def test_which_images_share_a_batch_depends_on_their_size_alone():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    sizes = (384, 512), (768, 1024), (2048, 2048)
    assert [images_together(*size, 2, cuda) for size in sizes] == [8, 2, 1]
    assert [images_together(*size, 2, cpu) for size in sizes] == [1, 1, 1]
    assert working_memory(768, 1024, 2, cuda, count=4) == working_memory(768, 1024, 2, cuda)
    assert working_memory(384, 512, 2, cuda, count=4) > working_memory(384, 512, 2, cuda)


def test_the_loop_never_waits_for_the_device(pipeline):
    """On tensors without data: whatever read a value of one would raise."""
    unet = copy.deepcopy(pipeline.unet).to("meta")
    mean, mask = torch.empty(1, 4, 48, 16, device="meta"), torch.empty(1, 1, 48, 16, device="meta")
    for scheduler in ("ddim", "dpmpp_2m"):
        latents = CatVTONPipeline(unet, pipeline.vae).denoise(
            mean, mean, mask, 3, 2.5, [1, 2], lambda step, predicted: None, scheduler
        )
        assert latents.shape == (2, 4, 24, 16)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "unipc"])
def test_a_solver_nears_its_own_limit_in_fewer_steps(pipeline, case, scheduler):
    few, many, published = (
        sample(pipeline, case, num_inference_steps=steps, scheduler=name)
        for steps, name in ((8, scheduler), (20, scheduler), (8, "ddim"))
    )
    assert psnr(few, many) > psnr(published, many) + 3
    assert np.array_equal(few, sample(pipeline, case, num_inference_steps=8, scheduler=scheduler))


def test_each_noise_is_drawn_once(pipeline, case, monkeypatch):
    """The VAE posterior's is not that of the first latents, whatever part of a seed torch's generator takes."""
    drawn = []
    original = published._noise
    monkeypatch.setattr(published, "_noise", lambda *given: drawn.append(original(*given)) or drawn[-1])
    for seed in (5, 2**63 + 5):
        sample(pipeline, case, num_inference_steps=2, seeds=[seed])
        posterior, latents, *_ = drawn
        assert posterior.shape == latents.shape and not torch.equal(posterior, latents)
        drawn.clear()


@pytest.mark.parametrize("steps", [0, 501, 999, 1000])
def test_steps_that_the_schedule_does_not_have_are_refused(pipeline, case, steps):
    with pytest.raises(ValueError, match="from 1 to 500"):
        sample(pipeline, case, num_inference_steps=steps)


def test_an_unknown_scheduler_is_refused(pipeline, case):
    with pytest.raises(ValueError, match="ddim, dpmpp_2m, unipc"):
        sample(pipeline, case, scheduler="euler")


def test_guidance_on_a_part_of_the_steps(pipeline, case, monkeypatch):
    batches = []
    forward = pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda inputs, *a, **k: batches.append(len(inputs)) or forward(inputs, *a, **k)
    )
    always = sample(pipeline, case)
    assert batches == [2, 2, 2, 2]
    part = sample(pipeline, case, guidance_start=0.25, guidance_end=0.75)
    assert batches[4:] == [1, 2, 2, 1] and not np.array_equal(part, always)
    never = sample(pipeline, case, guidance_start=1.0)
    assert np.array_equal(never, sample(pipeline, case, guidance_scale=1.0))


def test_the_global_generator_is_neither_used_nor_moved(pipeline, case):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(pipeline, case)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert np.array_equal(first, sample(pipeline, case))


def test_the_callback_ends_sampling_within_a_step(pipeline, case):
    steps = []

    def stop(step, latents):
        steps.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(pipeline, case, num_inference_steps=50, callback=stop)
    assert [step for step, _ in itertools.groupby(steps)] == [0, 1, 2] and steps.count(2) == 1


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_the_callback_ends_the_work_of_the_vae_too(pipeline, case, work, monkeypatch):
    class Stop(Exception):
        pass

    def stop(step, latents):
        if within:
            raise Stop

    within = []
    original = getattr(pipeline.vae, work)
    monkeypatch.setattr(pipeline.vae, work, lambda *given: within.append(work) or original(*given))
    with pytest.raises(Stop):
        sample(pipeline, case, num_inference_steps=1, callback=stop)
    assert within == [work]
    assert not any(module._forward_pre_hooks for module in pipeline.vae.modules())


@pytest.mark.parametrize("network", ["unet", "vae"])
def test_the_callback_ends_the_attention_of_a_large_image(pipeline, case, network, monkeypatch):
    """At 2048 x 2048 one attention takes a CPU minutes; here the limit is small instead of the image large."""
    monkeypatch.setattr(interruption, "QUERIES_PER_THREAD", 8)
    attention = next(m for m in getattr(pipeline, network).modules() if type(m).__name__ == "Attention")
    events = []
    hooks = [
        attention.register_forward_pre_hook(lambda module, inputs: events.append("begun")),
        attention.to_out[0].register_forward_pre_hook(lambda module, inputs: events.append("computed")),
    ]

    class Stop(Exception):
        pass

    def stop(step, latents):
        if events:
            raise Stop

    with pytest.raises(Stop):
        sample(pipeline, case, num_inference_steps=1, callback=stop)
    for hook in hooks:
        hook.remove()
    assert events == ["begun"]


def test_attention_in_parts_is_the_whole_attention(pipeline, case, monkeypatch):
    whole = sample(pipeline, case, num_inference_steps=2)
    monkeypatch.setattr(interruption, "QUERIES_PER_THREAD", 8)
    assert np.abs(whole.astype(int) - sample(pipeline, case, num_inference_steps=2)).max() <= 1  # sums may be rounded


@pytest.mark.parametrize(
    "options", [{"width": 100}, {"height": 0}, {"num_inference_steps": 0}, {"seeds": []}, {"seeds": [-1]}]
)
def test_arguments_out_of_range_are_refused(pipeline, case, options):
    with pytest.raises(ValueError):
        sample(pipeline, case, **options)


@pytest.fixture(name="copied")
def copied_folder(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def rewrite(path, change):
    weights = load_file(path)
    change(weights)
    path.unlink()
    save_file(weights, path)


def test_attention_indices_count_only_by_rank(copied, pipeline, case):
    def seven(weights):
        for key in sorted(weights, key=lambda key: int(key.split(".")[0])):
            index, _, name = key.partition(".")
            weights[f"{int(index) // 8 * 7}.{name}"] = weights.pop(key)

    rewrite(copied / ATTENTION, seven)
    assert np.array_equal(sample(load(copied), case), sample(pipeline, case))


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("64.to_q.weight"),
        lambda weights: weights.update({"128.to_q.weight": torch.zeros(4, 4)}),
        lambda weights: weights.update({"unet.conv.weight": torch.zeros(4, 4)}),
        lambda weights: weights.update({"8.to_v.weight": torch.zeros(4, 4)}),
    ],
    ids=["missing", "too many", "unknown", "shape"],
)
def test_other_attention_files_are_refused_by_name(copied, change):
    rewrite(copied / ATTENTION, change)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load(copied)


@pytest.mark.parametrize("channels", [4, 8])
def test_a_base_that_is_no_inpainting_model_is_refused_at_once(copied, channels):
    path = copied / "stable-diffusion-inpainting/unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": channels}))
    with pytest.raises(CheckpointError, match=f"in_channels is {channels}.*inpainting"):
        load(copied)


@pytest.mark.parametrize("content", ['"x"', "[]", "7", "{"])
def test_a_configuration_that_is_no_object_is_refused_without_asking_a_hub(copied, content):
    path = copied / "stable-diffusion-inpainting/unet/config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="unet/config.json: not a configuration"):
        load(copied)


def test_pickled_weights_of_both_formats_are_read_and_others_refused(copied, pipeline, case):
    path = copied / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    path.unlink()
    pickled = path.with_suffix(".bin")
    for zipped in (True, False):
        torch.save(weights, pickled, _use_new_zipfile_serialization=zipped)
        assert np.array_equal(sample(load(copied), case), sample(pipeline, case))
    first = next(iter(weights))
    for content in (
        [1],
        weights[first],
        {7: weights[first]},
        {**weights, first: 7},
        {**weights, first: weights[first].char()},
    ):
        torch.save(content, pickled)
        with pytest.raises(CheckpointError, match="diffusion_pytorch_model.bin"):
            load(copied)


def test_seeds_that_differ_beyond_32_bits_are_other_images_and_lower_ones_as_published():
    def drawn(seed: int) -> torch.Tensor:
        return torch.randn(4, generator=generator(seed))

    assert all(
        torch.equal(drawn(seed), torch.randn(4, generator=torch.Generator().manual_seed(seed)))
        for seed in (0, 2**32 - 1)
    )
    seeds = [7, 2**32 + 7, 2**33 + 7, 2**63 + 7, 2**64 - 1, 2**32 - 1]
    assert len({tuple(drawn(seed).tolist()) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("name", ["stable-diffusion-inpainting/unet", "sd-vae-ft-mse"])
def test_damaged_base_files_are_refused_by_name(copied, name):
    path = copied / name / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04x."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="diffusion_pytorch_model.safetensors"):
            load(copied)
    path.write_bytes(whole)
    rewrite(path, lambda weights: weights.pop(next(iter(weights))))
    with pytest.raises(CheckpointError, match="lacks"):
        load(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model.safetensors"):
        load(copied)


def test_the_vaes_old_attention_names_are_understood(copied, pipeline, case):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(weights):
        for key in list(weights):
            for new, name in old.items():
                if new in key:
                    weights[key.replace(new, name)] = weights.pop(key)

    rewrite(copied / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors", rename)
    assert np.array_equal(sample(load(copied), case), sample(pipeline, case))


@pytest.mark.parametrize(
    "size, crop, pad",
    [
        ((100, 100), (12, 0, 88, 100), (0, 128, 768, 896)),
        ((300, 100), (112, 0, 188, 100), None),
        ((75, 200), (0, 50, 75, 150), None),
    ],
)
def test_the_published_geometry(size, crop, pad):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))
    target = (768, 1024)
    cropped = resize_and_crop(image, target)
    assert cropped.size == target
    if size == (100, 100):
        expected = image.crop((12, 0, 87, 100)).resize(target, Image.Resampling.LANCZOS)
        assert np.array_equal(np.array(cropped), np.array(expected))
    padded = np.array(resize_and_pad(image, target))
    assert padded.shape == (1024, 768, 3)
    if pad:
        assert (padded[: pad[1]] == 255).all() and (padded[pad[3] :] == 255).all()
        assert not (padded[pad[1] : pad[3]] == 255).all()


def test_repaint_changes_nothing_outside_the_mask_and_all_deep_inside():
    random = torch.Generator().manual_seed(0)
    person, result = (torch.rand(1, 64, 48, 3, generator=random) for _ in range(2))
    mask = torch.zeros(64, 48)
    mask[10:50, 8:40] = 1
    for feather in (0, 1, 8, 12):
        out = repaint(person, result, mask, feather)
        assert torch.equal(out[0][mask == 0], person[0][mask == 0])
        assert torch.equal(out[0, 29:31, 23:25], result[0, 29:31, 23:25])


def test_blur_rounds_the_masks_outline_only():
    mask = Image.new("L", (128, 128))
    mask.paste(255, (32, 32, 96, 96))
    assert np.array_equal(np.array(blur_mask(mask, 0)), np.array(mask))
    changed = (np.array(blur_mask(mask, 9)) >= 128) != (np.array(mask) >= 128)
    assert 0 < changed.mean() < 0.03
