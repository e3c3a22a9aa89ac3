"""Images that cost much are refused or wait their turn, and one that does not end is stopped."""

import asyncio
import gc
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon import images
from comfyui_tryon.decoding import decoder, pool
from comfyui_tryon.decoding.budget import Budget
from comfyui_tryon.decoding.decoder import Decoder
from comfyui_tryon.decoding.pool import Pool
from comfyui_tryon.decoding.worker import Job, Worker
from comfyui_tryon.errors import ApiError
from comfyui_tryon.imagefiles import strips, structure
from PIL import Image, ImageFile, ImageOps
from support.images import to_base64, to_bytes
from support.invalid import chunk
from support.servers import ROOT


def grey_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 2 * side) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND")


def progressive_jpeg(more_scans: int) -> bytes:
    data = to_bytes(Image.effect_noise((64, 64), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * more_scans + data[-2:]


def tiff_of_tags(count: int, size: int) -> bytes:
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) + tags + bytes(4)


def gif_with(part: bytes) -> bytes:
    data = to_bytes(Image.new("P", (16, 16)), "GIF")
    position = data.index(b"\x2c", 13)
    return data[:position] + part + data[position:]


BOMBS = {
    "scans": progressive_jpeg(60),
    "segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 3_000 + progressive_jpeg(0)[2:],
    "chunks": grey_png(16)[:33] + chunk(b"tEXt", b"a\0b") * 60_000 + grey_png(16)[33:],
    "comments": gif_with(b"\x21\xfe\1A\0" * 3_000),
    "bytes of them": gif_with(b"\x21\xfe" + (b"\xff" + bytes(255)) * 5_000 + b"\0"),
    "tags": tiff_of_tags(2_000, 4),
    "bytes in its strips or tiles": b"II*\0"
    + struct.pack("<IHHHIHHHHII", 8, 2, 259, 3, 1, 8, 0, 279, 4, 40, 38)
    + bytes(4)
    + struct.pack("<I", 1_000) * 40,
    "tags that share": tiff_of_tags(500, 1_000_000),
}


@pytest.mark.parametrize("part", BOMBS)
def test_a_file_of_too_many_parts_is_refused_by_their_name(part):
    with pytest.raises(ApiError) as caught:
        images.read_header(BOMBS[part], "person_image", 10_000)
    assert caught.value.code == "invalid_image" and part in caught.value.message


def test_honest_files_are_within_the_bounds():
    photo = Image.effect_noise((256, 256), 90).convert("RGB")
    profile = bytes(300_000)
    for data in (
        to_bytes(photo, "JPEG", progressive=True, icc_profile=profile),
        to_bytes(photo, "JPEG") + b"\xff\xda" * 10_000,  # a camera may put a film behind the image
        to_bytes(photo, "PNG", icc_profile=profile),
        to_bytes(photo, "TIFF", compression="tiff_lzw", strip_size=256),
        to_bytes(photo.quantize(), "GIF", comment=b"x" * 100_000),
        to_bytes(photo, "WEBP", icc_profile=profile),
        to_bytes(photo, "BMP"),
    ):
        structure.check(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_looking_at_a_truncated_file_ends(format):
    data = to_bytes(Image.new("L", (32, 32)), format)
    for length in range(len(data)):
        structure.check(data[:length])


def test_the_cost_is_known_from_the_header():
    header = images.read_header(grey_png(1_000), "person_image", 10**6)
    assert header.pixel_bytes == 3_000_000
    assert 2_000_000 < header.decoder_bytes < 12_000_000
    progressive = to_bytes(Image.new("RGB", (1_000, 1_000)), "JPEG", progressive=True)
    assert images.read_header(progressive, "person_image", 10**6).decoder_bytes >= 10_000_000


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "no"), OSError("out of memory error when reading it")])
def test_memory_running_short_is_not_the_image_s_fault(error, monkeypatch):
    def fail(image):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ApiError) as caught:
        images.decode(grey_png(16), "person_image", 10_000)
    assert caught.value.code == "out_of_memory" and caught.value.retry_after


async def test_shares_are_lent_in_the_order_in_which_they_are_asked_for():
    budget = Budget(10)
    with budget.share() as first:
        await first.take(6)
        large, small = budget.share(), budget.share()
        waiting = [asyncio.ensure_future(large.take(8)), asyncio.ensure_future(small.take(1))]
        await asyncio.sleep(0)
        assert not waiting[1].done(), "a small one would starve the large one"
        first.shrink(1)
        await asyncio.gather(*waiting)
        assert budget.taken == 10
    with large, small:
        pass
    assert budget.taken == 0


async def test_one_that_no_longer_waits_lets_those_behind_it_pass():
    budget = Budget(10)
    with budget.share() as first, budget.share() as third:
        await first.take(6)
        second = asyncio.ensure_future(budget.share().take(8))
        waiting = asyncio.ensure_future(third.take(2))
        await asyncio.sleep(0)
        second.cancel()
        await waiting
        assert budget.taken == 8
    assert budget.taken == 0


async def test_a_share_given_back_in_the_moment_in_which_a_waiting_request_is_canceled_goes_to_the_next():
    budget = Budget(10)

    async def hold(size: int, until: asyncio.Event) -> None:
        with budget.share() as share:
            await share.take(size)
            await until.wait()

    end = asyncio.Event()
    holder, canceled, following = (asyncio.ensure_future(hold(size, end)) for size in (8, 5, 6))
    await asyncio.sleep(0)
    holder.cancel()
    canceled.cancel()
    ended = await asyncio.gather(holder, canceled, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    assert budget.taken == 6
    end.set()
    await following
    assert budget.taken == 0


async def test_a_request_waits_for_its_share_and_can_be_canceled_meanwhile(api, grey):
    client = await api(decode_mb=64)
    budget = client.parts._tryon._decoder._budget
    budget.taken = budget.total
    reply = asyncio.ensure_future(client.error(grey, headers={"X-Request-Id": "mine"}))
    await client.until(lambda: budget._waiting)
    async with client.delete("/api/v1/tryon/mine") as deleted:
        assert deleted.status == 204
    assert await reply == (499, "canceled")
    assert not budget._waiting and not client.engine.runs

    other = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: budget._waiting)
    budget.give_back(budget.total)
    assert (await other)[0] == 200
    await client.until(lambda: budget.taken == 0)


async def test_a_deadline_ends_the_wait_for_a_share(api, grey):
    client = await api(decode_mb=64, timeout_s=0.2)
    budget = client.parts._tryon._decoder._budget
    budget.taken = budget.total
    assert await client.error(grey) == (504, "timeout")
    assert not budget._waiting


async def test_images_that_could_never_fit_are_refused(api, grey):
    client = await api(decode_mb=64)
    large = to_base64(Image.new("L", (5_000, 5_000)))
    status, content = await client.tryon(grey | {"person_image": large})
    assert (status, content["error"]["code"]) == (422, "image_too_large")
    assert content["error"]["details"] == {"field": "person_image"}


async def test_an_operator_may_allow_more_pixels_than_pillow_does():
    header = struct.pack(">IIBBBBB", 14_000, 14_000, 1, 0, 0, 0, 0)
    cut = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    decoder = Decoder(10**10, 200_000_000)
    with decoder.share() as share, pytest.raises(ApiError) as caught:
        await decoder.decode({"person_image": cut}, share)
    assert caught.value.code == "invalid_image"


async def test_images_that_fit_only_one_after_the_other_are_decoded_so():
    data, mask = grey_png(1_000), to_bytes(Image.new("L", (1_000, 1_000), 255))
    decoder = Decoder(27_000_000, 10**6)
    with decoder.share() as share:
        decoded = await decoder.decode({"person_image": data, "garment_image": data, "mask_image": mask}, share)
        assert decoder._budget.taken == sum(pixels.nbytes for pixels in decoded.values())
    assert decoder._budget.taken == 0


async def test_processes_decode_what_this_one_would():
    image = Image.effect_noise((640, 480), 90).convert("RGB")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = to_bytes(image)
    decoder = Decoder(10**9, 10**6)
    with decoder.share() as share:
        found = (await decoder.decode({"person_image": data}, share))["person_image"]
    assert np.array_equal(found, images.decode(data, "person_image", 10**6)) and found.flags.writeable


async def test_a_decoder_that_does_not_end_is_stopped_and_the_next_image_is_decoded(monkeypatch):
    monkeypatch.setattr(pool, "QUICK_S", 0.0)
    monkeypatch.setattr(pool, "LIMIT_S", 0.0)
    slow = Job(grey_png(3_000), "person_image", 10**8, images.Header(3_000, 3_000, 10**8))
    processes = Pool()
    with pytest.raises(ApiError) as caught:
        await processes.run(slow)
    assert caught.value.code == "invalid_image" and "too long" in caught.value.message
    monkeypatch.undo()
    assert (await processes.run(slow))[1].shape == (3_000, 3_000, 3)
    assert not processes._quick.locked() and not processes._slow.locked()


async def test_images_that_are_slow_leave_their_places_to_others(monkeypatch):
    monkeypatch.setattr(pool, "QUICK_S", 0.05)
    processes = Pool()
    while not processes._slow.locked():  # as if others were slow already
        await processes._slow.acquire()
    slow = Job(grey_png(3_000), "person_image", 10**8, images.Header(3_000, 3_000, 10**8))
    waiting = [asyncio.create_task(processes.run(slow)) for _ in range(pool.QUICK_PROCESSES + 1)]
    quick = Job(grey_png(16), "person_image", 10_000)
    assert (await processes.run(quick))[0].width == 16
    assert not any(task.done() for task in waiting)
    for _ in range(pool.SLOW_PROCESSES):
        processes._slow.release()
    assert all(pixels.shape == (3_000, 3_000, 3) for _, pixels in await asyncio.gather(*waiting))
    assert not processes._quick.locked() and not processes._slow.locked()


async def test_a_paused_process_ends_with_its_parent():
    code = "import asyncio, os; from comfyui_tryon.decoding.worker import Worker\n"
    code += "async def main():\n worker = Worker(); await worker.started(); worker.pause()\n"
    code += " print(worker._process.pid, flush=True); os._exit(0)\nasyncio.run(main())"
    path = {"PYTHONPATH": str(ROOT / "custom_nodes"), "PATH": os.environ["PATH"]}
    output = subprocess.check_output([sys.executable, "-c", code], env=path, text=True)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{int(output)}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{int(output)}/stat").read_text().rsplit(")")[-1].split()[0] == "Z":
            return
        await asyncio.sleep(0.02)
    assert not Path(f"/proc/{int(output)}").exists()


async def test_a_refused_image_ends_the_decoding_of_the_others(monkeypatch):
    monkeypatch.setattr(decoder, "FINISH_S", 0.0)
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def refused() -> None:
        raise images.damaged("person_image")

    with pytest.raises(ApiError):
        await decoder.all_of([endless(), refused()])
    assert ended.is_set()


async def test_a_refused_image_is_not_held_until_the_collector_comes_by(api, grey):
    client = await api()
    gc.collect()
    gc.disable()
    try:
        damaged = to_base64(Image.effect_noise((64, 64), 90))[:-1000]
        assert (await client.tryon(grey | {"person_image": damaged}))[0] == 422
        held = [found for found in gc.get_objects() if type(found) in (Job, Worker)]
        assert not [found for found in held if found not in pool._idle]
    finally:
        gc.enable()


async def test_a_process_that_is_killed_is_replaced():
    processes = Pool()
    job = Job(grey_png(16), "person_image", 10_000)
    assert (await processes.run(job))[0].width == 16
    for worker in pool._idle:
        worker._process.kill()
        worker._process.wait()
    assert (await processes.run(job))[0].width == 16


async def test_a_process_of_decoders_knows_no_key(monkeypatch):
    monkeypatch.setenv("TRYON_API_KEY", "secret")
    pool._idle.clear()
    await Pool().run(Job(grey_png(16), "person_image", 10_000))
    with open(f"/proc/{pool._idle[-1]._process.pid}/environ", "rb") as file:
        assert b"secret" not in file.read()


def test_each_orientation_is_right_across_strips(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)

    for strip_pixels in (10**6, 100):
        monkeypatch.setattr(strips, "STRIP_PIXELS", strip_pixels)
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = to_bytes(Image.fromarray(pixels), exif=exif)
            found = images.decode(data, "person_image", 10_000)
            with Image.open(io.BytesIO(data)) as image:
                assert np.array_equal(found, np.array(ImageOps.exif_transpose(image)))
