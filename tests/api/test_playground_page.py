"""The playground and the docs page in a browser, over an engine that executes nothing."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon import exchange
from comfyui_tryon.demo import SAMPLES
from comfyui_tryon.engine.interface import Progress
from support.browser import CHROMIUM, Page, opened
from support.servers import ROOT

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
# Drops files of these names, images or not.
DROP_FILES = """(async () => {
    const blob = await (await fetch("playground/person.png")).blob();
    const transfer = new DataTransfer();
    for (const name of %s) transfer.items.add(new File([blob], name, {type: name.endsWith(".png") ? "image/png" : ""}));
    document.querySelector("%s").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
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


async def drop(page: Page, place: str, *names: str) -> None:
    await page.evaluate(DROP_FILES % (json.dumps(names), place))


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
        assert await page.evaluate("document.activeElement.id") == "result"

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


async def test_what_is_not_used_of_the_chosen_files_is_said(api):
    client = await api(playground=True)
    person, garment = TEXT % "#person-problem", TEXT % "#garment-problem"
    async with playground(client) as page:
        await page.wait_for(READY)
        await drop(page, "#person .picker", "a.pdf", "p.png", "q.png")
        assert "left out: 1" in await page.wait_for(person) and "a.pdf" in await page.evaluate(person)
        assert "p.png" in await page.evaluate(TEXT % "#person .name")
        await drop(page, "#person", "b.pdf")
        assert (await page.wait_for(f'{person}.includes("b.pdf") && {person}')).startswith("b.pdf: not an image")
        assert "p.png" in await page.evaluate(TEXT % "#person .name")
        await drop(page, "#garments", "g.png")
        await page.wait_for(CHOSEN % 2)
        await drop(page, "#garments", "c.docx")
        assert "c.docx" in await page.wait_for(garment)
        await drop(page, "#garments", *(f"{number}.png" for number in range(5)))
        assert "left out: 2" in await page.wait_for(f'!{garment}.includes("docx") && {garment}')
        assert await page.evaluate(CHOSEN % 5)
        await drop(page, "#garments", "d.pdf")
        assert "d.pdf" in await page.wait_for(f'{garment}.includes("d.pdf") && {garment}')
        assert await page.evaluate("document.querySelector('#garment-problem').getAttribute('role')") == "alert"
        await page.click("#garments button[aria-label]")
        assert await page.evaluate(garment) == ""


async def test_choices_have_one_name_each(api):
    client = await api(playground=True)
    options = "JSON.stringify([...document.querySelector('%s').options].map(option => option.value))"
    async with playground(client) as page:
        await choose_samples(page)
        types = json.loads(await page.evaluate(options % "#garments select"))
        assert types == ["upper", "lower", "overall", "inner", "outer"]
        assert json.loads(await page.evaluate(options % "[name=output_format]")) == ["", "jpeg", "webp"]


async def test_a_workflow_that_needs_a_mask_takes_one_garment_and_says_so(api, tmp_path):
    shutil.copy(ROOT / "workflows/catvton_mask.json", tmp_path / "workflows")
    client = await api(playground=True, workflow="catvton_mask")
    async with playground(client) as page:
        await choose_samples(page)
        await page.click("#submit")
        assert "Paint a mask" in await page.evaluate(TEXT % "#missing")
        await drop(page, "#garments", "second.png")
        await page.wait_for(CHOSEN % 3)
        await page.click("#submit")
        for place in ("#missing", "#mask .help"):
            assert await page.evaluate(TEXT % place) == "This workflow takes one garment."
        assert await page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove garment 2"
        assert not client.engine.runs


async def test_the_page_notices_that_the_server_is_gone_and_that_it_is_back(api):
    client = await api(playground=True)
    health = TEXT % "#health"
    async with playground(client) as page:
        await page.wait_for(f'{health} === "Ready"')
        await choose_samples(page)
        await page.evaluate("window.reached = fetch, window.fetch = async () => { throw new TypeError('gone'); }, null")
        await page.click("#submit")
        await page.wait_for(SHOWN % '"cannot be reached"')
        await page.wait_for(f'{health} === "Not reachable"')
        await page.evaluate("window.fetch = window.reached, null")
        await page.wait_for(f'{health} === "Ready"')


async def shell(folder: Path, *command: str) -> tuple[int, str]:
    """Returns the exit status and the output of a command."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_code_keeps_long_seeds_and_fails_where_the_request_does(api, tmp_path):
    client = await api(playground=True)
    for sample in SAMPLES.glob("*.png"):
        shutil.copy(sample, tmp_path)
    async with playground(client) as page:
        await choose_samples(page)
        await page.enter({"seed": str(2**64 - 1)})
        await page.click("#snippets button:last-child")
        (tmp_path / "tryon.mjs").write_text(await page.evaluate(TEXT % "#snippets code"))
        await page.enter({"seed": "", "width": "770"})
        await page.click("#snippets button")
        curl = await page.evaluate(TEXT % "#snippets code")
    status, _ = await shell(tmp_path, "bash", "-c", curl)
    assert status == 22 and b"invalid_parameter" in (tmp_path / "result.png").read_bytes()
    if not shutil.which("node"):
        pytest.skip("Node is not installed: the code in JavaScript is not run")
    assert await shell(tmp_path, "node", "tryon.mjs") == (0, f"result-0.png seed {2**64 - 1}\n")


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
