"""The playground and the docs page in a browser, on every engine: from two images to the result and to code."""

import asyncio
import shutil
import subprocess

import pytest
from comfyui_tryon.demo import SAMPLES
from PIL import Image, ImageChops
from support.browser import CHROMIUM, Page, opened
from support.servers import Server

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM HERE: nothing of the pages is tested (apt install chromium)"
)
QUICK = {"width": "128", "height": "192", "seed": "7"}


def in_page(server: Server, path: str, scenario) -> None:
    async def run() -> None:
        async with opened(server.url + path) as page:
            await scenario(page)
            assert not [text for text in page.messages if text.startswith(("exception", "security"))], page.messages

    asyncio.run(run())


def test_two_images_become_a_result_beside_the_person_and_code_that_a_shell_runs(server, tmp_path):
    code = ""

    async def scenario(page: Page) -> None:
        nonlocal code
        await page.wait_for('document.querySelectorAll("#main-fields select").length > 1')
        await page.evaluate('document.querySelectorAll(".sample").forEach(button => button.click())')
        await page.wait_for('document.querySelectorAll(".chosen img").length === 2')

        await page.enter(QUICK | {"num_inference_steps": "100"})
        await page.click("#submit")
        await page.wait_for('!!document.querySelector(".preview.live")')
        await page.click("#cancel")
        await page.wait_for('document.querySelector("#stage").innerText.includes("Canceled")')

        await page.enter(QUICK | {"num_inference_steps": "2"})
        await page.click("#submit")
        await page.wait_for('document.querySelector(".frame .after")?.naturalWidth === 384')
        assert await page.evaluate('document.querySelector(".frame .before").naturalWidth') == 384
        facts = await page.evaluate('document.querySelector(".facts").innerText')
        assert "7" in facts and "384 × 512, PNG" in facts and "demo, version" in facts
        assert "demo weights" in await page.evaluate('document.querySelector(".warnings").innerText')

        await page.evaluate("navigator.clipboard.writeText = async (text) => (window.copied = text)")
        await page.click("#copy")
        code = await page.wait_for("window.copied")

        select = 'document.querySelector("#main-fields select")'
        await page.evaluate(f'{select}.value = "catvton", {select}.dispatchEvent(new Event("change")), null')
        await page.click("#submit")
        error = await page.wait_for('document.querySelector(".error")?.innerText')
        assert "not_ready" in error and "Request" in error and "weights" in error

    in_page(server, "/playground", scenario)
    for sample in SAMPLES.glob("*.png"):
        shutil.copy(sample, tmp_path)
    subprocess.run(["bash", "-ec", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    with Image.open(tmp_path / "result.png") as result, Image.open(tmp_path / "person.png") as person:
        assert result.size == person.size
        assert ImageChops.difference(result.convert("RGB"), person.convert("RGB")).getbbox()


def test_try_it_out_needs_two_files_and_nothing_else(server):
    async def scenario(page: Page) -> None:
        await page.wait_for('!!document.querySelector(".opblock-post button")')
        await page.click(".opblock-post button")
        await page.wait_for('!!document.querySelector("[data-property-name=garment_image] input[type=file]")')
        for name in ("person", "garment"):
            await page.choose(f"[data-property-name={name}_image] input", SAMPLES / f"{name}.png")
        await page.click(".execute")
        reply = ".live-responses-table"
        status = await page.wait_for(f'document.querySelector("{reply} tbody .response-col_status")?.innerText')
        assert status.strip() == "200"
        await page.wait_for(f'document.querySelector("{reply} img")?.naturalWidth === 384')

    in_page(server, "/api/v1/docs", scenario)


def test_beside_comfyuis_own_page_the_playground_is_at_its_own_address(dev):
    with dev.client(headers={"Accept": "text/html"}) as client:
        assert "Virtual try-on" in client.get("/playground").text
        page = client.get("/")
        assert page.status_code == 200 and "Virtual try-on" not in page.text
