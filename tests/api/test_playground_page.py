"""The playground and the docs page in a browser, over an engine that executes nothing."""

import contextlib
import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
from comfyui_tryon import exchange
from comfyui_tryon.demo import SAMPLES
from comfyui_tryon.engine.interface import Progress
from support.browser import CHROMIUM, Page, opened

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM HERE: nothing of the playground is tested (apt install chromium)"
)

READY = """document.querySelectorAll("#main-fields select").length > 0"""
CHOSEN = """document.querySelectorAll(".chosen img").length === %d"""
SHOWN = """document.querySelector("#stage").innerText.includes(%s)"""
TEXT = """document.querySelector("%s").innerText"""
# Puts an image into an event as the clipboard and a drag do.
TRANSFER = """(async () => {
    const blob = await (await fetch("playground/%s")).blob();
    const transfer = new DataTransfer();
    transfer.items.add(new File([blob], "%s", {type: "image/png"}));
    document.querySelector("%s").dispatchEvent(new %s);
})()"""
DROP = 'DragEvent("drop", {dataTransfer: transfer, bubbles: true})'
PASTE = 'ClipboardEvent("paste", {clipboardData: transfer, bubbles: true})'


@contextlib.asynccontextmanager
async def playground(client) -> AsyncIterator[Page]:
    async with opened(str(client.make_url("/playground"))) as page:
        yield page
        bad = ("exception", "security", "error", "violation")
        assert not [message for message in page.messages if message.startswith(bad)], page.messages


async def choose_samples(page: Page) -> None:
    await page.wait_for(READY)
    await page.evaluate('document.querySelectorAll(".sample").forEach(button => button.click())')
    await page.wait_for(CHOSEN % 2)


def images_of(run) -> dict[str, np.ndarray]:
    return exchange.find(run.prompt[run.outputs[0]]["inputs"]["token"]).images


async def test_the_key_is_asked_for_kept_in_the_tab_only_and_in_no_code(api):
    client = await api(playground=True, api_key="right")
    async with playground(client) as page:
        for given, then in (("wrong", "does not accept"), ("right", None)):
            await page.wait_for('document.activeElement.type === "password"')
            await page.type(given)
            await page.click("dialog .primary")
            await page.wait_for(f'/{then}/.test(document.querySelector("dialog")?.innerText)' if then else READY)
        assert await page.evaluate("JSON.stringify([Object.values(sessionStorage), localStorage.length])") == (
            '[["right"],0]'
        )
        assert await page.evaluate("document.cookie") == ""
        code = await page.evaluate(TEXT % "#snippets code")
        assert "X-API-Key: $TRYON_API_KEY" in code and "right" not in code
        await choose_samples(page)
        await page.click("#submit")
        await page.wait_for('!!document.querySelector(".frame")')


async def test_images_come_by_file_drop_paste_and_camera_and_are_sent_with_the_mask_and_fields(api):
    client = await api(playground=True)
    client.engine.holds = True
    async with playground(client) as page:
        await page.wait_for(READY)
        await page.click("#submit")
        assert "person" in await page.evaluate(TEXT % "#missing")
        await page.choose("#person input", SAMPLES / "person.png")
        await page.wait_for(CHOSEN % 1)
        await page.evaluate(TRANSFER % ("garment.png", "pasted.png", "body", PASTE))
        await page.wait_for(CHOSEN % 2)

        await page.click("#mask button")
        await page.wait_for("document.querySelector('.board canvas')?.getBoundingClientRect().height > 100")
        await page.drag(".board canvas", (0.25, 0.5), (0.5, 0.5), (0.75, 0.5))
        await page.drag(".board canvas", (0.5, 0.1), (0.5, 0.1))
        await page.press("ArrowDown", 40)
        await page.press(" ", 32)
        undo = "[...document.querySelectorAll('dialog button')].find(button => button.innerText === 'Undo').click()"
        for _ in range(2):
            await page.evaluate(undo)
        await page.click("dialog .primary")
        await page.wait_for('!document.querySelector("dialog") && !!document.querySelector("#mask a[download]")')
        await page.enter({"num_inference_steps": "3", "framing": "model", "seed": str(2**64 - 1)})
        await page.click("#submit")
        await client.until(lambda: client.engine.runs)
        (run,) = client.engine.runs
        sent = images_of(run)
        mask = sent["mask_image"]
        assert mask.shape[:2] == sent["person_image"].shape[:2] == (512, 384)
        assert mask[256, 96:288].min() == 255 and mask[60].max() == mask[400].max() == 0
        inputs = run.prompt["7"]["inputs"]
        assert (inputs["steps"], inputs["seed"]) == (3, 2**64 - 1) and run.prompt["8"]["inputs"]["framing"] == "model"
        client.engine.start(run, Progress(1, 3, "7", None))
        await page.wait_for(SHOWN % '"step 1 of 3"')
        await page.click("#cancel")
        await page.wait_for(SHOWN % '"Canceled"')

        await page.click("#person button")
        await page.evaluate(TRANSFER % ("person.png", "dropped.png", "#person .picker", DROP))
        await page.wait_for(CHOSEN % 2)
        await page.click("#garment-picker .picker button:not(.sample)")
        await page.wait_for("document.querySelector('dialog.camera .primary')?.disabled === false")
        await page.click("dialog.camera .primary")
        await page.wait_for(CHOSEN % 3)
        code = await page.evaluate(TEXT % "#snippets code")
        for part in ("person_image=@dropped.png", "garment_image=@pasted.png", "garment_image=@garment.jpg", "seed="):
            assert part in code
        assert "mask_image" not in code, "another person has another mask"
        client.engine.holds = False
        await page.click("#submit")
        await page.wait_for('!!document.querySelector(".facts")')
        assert "18446744073709551615" in await page.evaluate(TEXT % ".facts")


async def test_on_a_phone_nothing_is_wider_than_the_screen(api):
    client = await api(playground=True)
    async with playground(client) as page:
        await page.resize(360, 740, phone=True)
        await choose_samples(page)
        await page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        await page.click("#submit")
        await page.wait_for('!!document.querySelector(".frame")')
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await page.click("#mask button")
        await page.wait_for('!!document.querySelector(".board canvas")')
        assert await page.evaluate('document.querySelector("dialog").getBoundingClientRect().right') <= 360
        small = await page.evaluate("""JSON.stringify([...document.querySelectorAll("button, select, .button")]
            .filter(control => control.getClientRects().length && control.getBoundingClientRect().height < 24)
            .map(control => control.outerHTML))""")
        assert json.loads(small) == [], "a finger needs room"


async def test_the_docs_page_takes_the_key_and_sends_it(api):
    client = await api(api_key="right")
    async with opened(str(client.make_url("/api/v1/docs"))) as page:
        await page.wait_for('!!document.querySelector(".auth-wrapper .authorize")')
        await page.click(".auth-wrapper .authorize")
        await page.wait_for('!!document.querySelector(".auth-container input")')
        await page.evaluate('document.querySelector(".auth-container input").focus()')
        await page.type("right")
        await page.click(".auth-container .authorize")
        await page.wait_for('!!document.querySelector(".auth-container .btn-done, .modal-ux .btn-done")')
        await page.click(".modal-ux .btn-done")
        await page.click("#operations-default-workflows .opblock-summary-control")
        await page.wait_for('!!document.querySelector("#operations-default-workflows .execute")')
        status = 'document.querySelector("#operations-default-workflows .live-responses-table tbody td")?.innerText'
        # pressed before the page has read all of the document, the button has no effect
        pressed = 'void document.querySelector("#operations-default-workflows .execute").click()'
        assert (await page.wait_for(f"{status} || {pressed}")).strip() == "200"
        assert not [text for text in page.messages if text.startswith(("exception", "security"))], page.messages
