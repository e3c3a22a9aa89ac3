"""ComfyUI's web page in --dev: the pack's nodes and examples in it, and publishing the open graph from its menu."""

import asyncio
import contextlib
import io
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon.demo import SAMPLES
from comfyui_tryon.engine import current
from comfyui_tryon.workflows.format import to_prompt
from comfyui_tryon.workflows.store import LoadImage
from PIL import Image
from support.browser import CHROMIUM, Page, PageError, opened
from support.images import picture, to_base64
from support.servers import ROOT, Server, comfyui_version

EXAMPLES = ROOT / "custom_nodes/comfyui_tryon/example_workflows"
PAGE_CATVTON = ROOT / "tests/data/workflows/page_catvton.json"
# The page opens a workflow of its own at last, which would take the place of one that a test has opened.
READY = """!!(window.app?.graph && app.extensionManager?.workflow?.activeWorkflow && document.querySelector("canvas")
    && window.LiteGraph?.registered_node_types["TryOnOutput"])"""
TOAST = """[...document.querySelectorAll(".p-toast-message")].map(toast => toast.innerText)
    .find(text => text.includes(%s))"""
LISTED = """[...document.querySelectorAll(".tryon h3")].map(title => title.innerText)"""
PUBLISHED = """[...document.querySelectorAll(".tryon article")]
    .find(article => article.querySelector("h3").innerText === "mine")?.querySelectorAll("button")"""
CLICKED = """[...document.querySelectorAll("button")].filter(button => /%s/i.test(button.innerText))
    .map(button => (button.click(), true))[0]"""

BUTTON = """[...document.querySelectorAll("button")]
    .findLast(button => button.innerText.trim() === %s && button.checkVisibility())"""
PRESSED = "(found => found && (found.click(), true))(%s)"
MASK_EDITOR = 'canvas[width="384"][height="512"]'  # its layers have the person's size
# The value of the node whose image was edited, once it shows what was painted and the editor is closed.
SAVED = f"""(({{imgs, widgets: [image]}}) => /clipspace/.test(image.value) && imgs?.[0]?.src.includes("clipspace")
    && imgs[0].naturalWidth && !document.querySelector('{MASK_EDITOR}')?.checkVisibility() && image.value
)(app.graph.getNodeById(1))"""
# A result is opened as if it were dropped onto the page, which then has the graph that made it.
DROPPED = """executed.then(name => fetch(app.api.apiURL(`/view?type=temp&filename=${name}`)))
    .then(reply => reply.blob()).then(image => app.handleFile(new File([image], "result.png", {type: image.type})))"""
# The editor has loaded the image, whose layer comes first, and enlarged it to the window.
PAINTABLE = f"""(layer => layer?.getBoundingClientRect().height > 512
    && layer.getContext("2d").getImageData(192, 256, 1, 1).data[3] === 255
)(document.querySelector('{MASK_EDITOR}'))"""
PAINTED = f"""[...document.querySelectorAll('{MASK_EDITOR}')].slice(1)
    .some(layer => layer.getContext("2d")?.getImageData(192, %d, 1, 1).data[3] > 128)"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM HERE: nothing of the web page is tested (apt install chromium)"
)


Scenario = Callable[[Page], Awaitable[None]]


@pytest.fixture(scope="module")
def in_page(dev) -> Iterator[Callable[[Scenario], None]]:
    """Runs a coroutine function in the page that all tests share, since opening one takes as long as most of them.

    Its last state is pictured into TRYON_TEST_SCREENSHOTS, if set.
    """
    loop, closing = asyncio.new_event_loop(), contextlib.AsyncExitStack()
    page = loop.run_until_complete(closing.enter_async_context(opened(dev.url + "/")))

    async def run(scenario: Scenario) -> None:
        await page.wait_for(READY)
        try:
            await scenario(page)
            ours = [message for message in page.messages if "tryon" in message and not message.startswith("log")]
            assert not ours
        finally:
            await shot(page, dev, scenario.__name__)

    yield lambda scenario: loop.run_until_complete(run(scenario))
    loop.run_until_complete(closing.aclose())
    loop.close()


async def shot(page: Page, server: Server, name: str) -> None:
    if folder := os.environ.get("TRYON_TEST_SCREENSHOTS"):
        await page.screenshot(Path(folder) / f"{comfyui_version(Path(server.engine))}-{name}.png")


async def open_graph(page: Page, document: dict) -> None:
    await page.evaluate(f"app.loadGraphData({json.dumps(document)}, true, true)")
    await page.wait_for(f"app.graph._nodes.length === {len(document['nodes'])}")


async def template(page: Page) -> dict:
    """The pack's demo, as the page gets it when its user chooses it among the templates."""
    listed = await page.evaluate('fetch("/api/workflow_templates").then(reply => reply.json())')
    [pack] = [pack for pack, names in listed.items() if "demo" in names]
    assert set(listed[pack]) == {path.stem for path in EXAMPLES.glob("*.json")}
    address = f"/api/workflow_templates/{pack}/demo"
    assert await page.evaluate(f'fetch("{address}.jpg").then(reply => reply.ok)')
    return await page.evaluate(f'fetch("{address}.json").then(reply => reply.json())')


async def press_button(page: Page, label: str) -> None:
    """Presses the button that was added last among the visible ones of this label."""
    await page.wait_for(PRESSED % (BUTTON % json.dumps(label)))


async def paint(page: Page, row: int) -> None:
    """Draws a stroke along a row of the person image in the mask editor, which ignores the mouse while it opens."""
    for attempts_left in reversed(range(10)):
        # Some editors draw nothing between less than five points.
        await page.drag(MASK_EDITOR, *((x / 100, row / 512) for x in range(35, 66, 3)))
        try:
            return await page.wait_for(PAINTED % row, timeout_s=2)
        except PageError:
            if not attempts_left:
                raise


async def run_graph(page: Page, server: Server) -> np.ndarray:
    """Presses Run; the pixels of the first image that a node shows, which it does at the end."""
    await page.evaluate("""{
        window.executed = new Promise(done => app.api.addEventListener(
            "executed", ({detail}) => done(detail.output.images[0].filename), {once: true}));
        null; // else the promise would be awaited
    }""")
    await press_button(page, "Run")
    name = await page.evaluate("executed")
    with server.client() as client:
        return np.array(Image.open(io.BytesIO(client.get("/view", params={"filename": name, "type": "temp"}).content)))


async def prompt_of(page: Page) -> dict:
    """What the page would queue, without titles: the page makes some up for nodes that have none."""
    queued = await page.evaluate("app.graphToPrompt().then(({output}) => JSON.stringify(output))")
    return untitled(json.loads(queued))


def untitled(prompt: dict) -> dict:
    return {name: {key: node[key] for key in ("class_type", "inputs")} for name, node in prompt.items()}


def widget(node: int, name: str) -> str:
    return f"app.graph.getNodeById({node}).widgets.find(widget => widget.name === {json.dumps(name)})"


async def publish(page: Page, name: str) -> None:
    """Chooses the menu's command and answers its question with `name`."""
    await page.evaluate('void app.extensionManager.command.execute("tryon.publish")')
    await page.wait_for('document.activeElement.tagName === "INPUT" && document.activeElement.value !== ""')
    await page.evaluate("document.activeElement.select()")
    await page.type(name)
    await page.press("Enter", 13)


def classes() -> dict[str, type]:
    return {"LoadImage": LoadImage, **current().node_classes()}


def test_graphs_convert_to_the_prompts_that_the_page_queues(in_page):
    async def graphs(page: Page) -> None:
        for path in (*EXAMPLES.glob("*.json"), PAGE_CATVTON):
            document = json.loads(path.read_text())
            await open_graph(page, document)
            assert await prompt_of(page) == untitled(to_prompt(document, classes())), path

    in_page(graphs)


@pytest.fixture
def sample() -> dict:
    """A request of what the templates have chosen."""
    images = {f"{name}_image": to_base64(Image.open(SAMPLES / f"{name}.png")) for name in ("person", "garment")}
    return images | {"workflow": "demo", "seed": 42, "num_inference_steps": 3}


def test_a_mask_painted_in_comfyuis_editor_is_the_one_that_is_used(in_page, dev, sample):
    async def painted(page: Page) -> None:
        example = await template(page)
        del example["extra"]["linearMode"]
        await open_graph(page, example)
        await page.evaluate(f"{widget(7, 'steps')}.value = 3")
        await page.wait_for("app.graph.getNodeById(1).imgs?.[0]?.naturalWidth === 384")
        await page.evaluate("""{
            app.canvas.selectNode(app.graph.getNodeById(1));
            void app.extensionManager.command.execute("Comfy.MaskEditor.OpenMaskEditor");
        }""")
        await page.wait_for(PAINTABLE)
        rows = (215, 256, 297)
        for row in rows:
            await paint(page, row)
        await shot(page, dev, "editor")
        await press_button(page, "Save")
        saved = await page.wait_for(SAVED)
        with Image.open(dev.folder / "input" / saved.removesuffix(" [input]")) as file:
            strokes = 255.0 - np.array(file.getchannel("A"))
        assert (strokes[rows, 192] > 128).all() and (strokes > 0).mean() < 0.3

        shown = await run_graph(page, dev)
        mask = Image.fromarray((strokes * 2 / strokes.max() * 255).clip(max=255).round().astype(np.uint8))
        with dev.client() as client:
            assert np.array_equal(
                shown, picture(client.post("/api/v1/tryon", json=sample | {"mask_image": to_base64(mask)}))
            )
        changed = (shown != np.array(Image.open(SAMPLES / "person.png"))).any(axis=-1)
        assert changed[strokes > 128].mean() > 0.5 and not changed[strokes == 0].any()

        await page.evaluate("app.graph.clear()")
        await page.evaluate(DROPPED)
        await page.wait_for(f"app.graph.getNodeById(1) && {widget(1, 'image')}.value === {json.dumps(saved)}")

    in_page(painted)


def test_in_app_mode_the_template_is_a_form_that_runs(in_page, dev, sample):
    async def app_mode(page: Page) -> None:
        if not await page.evaluate('app.extensionManager.command.commands.some(({id}) => id === "Comfy.ToggleLinear")'):
            pytest.skip(f"NO APP MODE in the page of ComfyUI {comfyui_version(Path(dev.engine))}")
        await open_graph(page, await template(page))
        await page.evaluate(f"{widget(7, 'steps')}.value = 3")
        for name in ("person", "garment"):
            await page.wait_for(f"!!{BUTTON}" % f'"tryon/{name}.png"')
        shown = await run_graph(page, dev)
        with dev.client() as client:
            assert np.array_equal(shown, picture(client.post("/api/v1/tryon", json=sample)))
        name = await page.evaluate("executed")
        image = f"""[...document.querySelectorAll("%s")].find(image => image.src.includes("{name}"))"""
        await page.wait_for(image % "img" + "?.naturalWidth === 384")
        await shot(page, dev, "app")

        await press_button(page, "tryon/garment.png")
        await page.wait_for(PRESSED % (image % "[role=dialog] img"))
        await page.wait_for(f'{widget(2, "image")}.value === "{name} [output]"')
        shown_next = await run_graph(page, dev)
        with dev.client() as client:
            garment = {"garment_image": to_base64(Image.fromarray(shown))}
            assert np.array_equal(shown_next, picture(client.post("/api/v1/tryon", json=sample | garment)))

    in_page(app_mode)


def test_the_example_is_opened_changed_published_answers_and_is_withdrawn(in_page, dev, fields):
    async def clicked(page: Page) -> None:
        example = await template(page)
        # A node loads its image when it is drawn, and a page in app mode draws none.
        del example["extra"]["linearMode"]
        await open_graph(page, example)
        for node, name in ((1, "person.png"), (2, "garment.png")):
            assert await page.evaluate(f'app.graph.getNodeById({node}).widgets.some(({{name}}) => name === "upload")')
            await page.evaluate(
                f'{widget(node, "image")}.value = "{name}", {widget(node, "image")}.callback("{name}"), null'
            )
            await page.wait_for(f"app.graph.getNodeById({node}).imgs?.[0]?.naturalWidth === {384}")
        await page.evaluate(f"{widget(7, 'steps')}.value = 3")
        await publish(page, "mine")
        toast = await page.wait_for(TOAST % '"mine"')
        assert '"mine" is published' in toast and "num_inference_steps" in toast
        await shot(page, dev, "published")

        with dev.client() as client:
            listed = {found["name"]: found for found in client.get("/api/v1/workflows").json()["workflows"]}
            assert listed["mine"]["parameters"]["num_inference_steps"] == 3 and listed["mine"]["version"] in toast
            sent = {key: value for key, value in fields.items() if key != "num_inference_steps"}
            reply = client.post("/api/v1/tryon", json=sent | {"workflow": "mine"})
        assert picture(reply).shape == (256, 192, 3)
        assert reply.json()["workflow"] == {"name": "mine", "version": listed["mine"]["version"]}

        await page.evaluate("void app.queuePrompt(0)")
        await page.wait_for("app.graph.getNodeById(9).imgs?.[0]?.naturalWidth === 384")
        await shot(page, dev, "run")

        queued = await prompt_of(page)
        assert queued["7"]["inputs"]["steps"] == 3 and queued["1"]["inputs"] == {"image": "person.png"}
        await open_graph(page, json.loads((dev.workflows / "mine.json").read_text()))
        assert await prompt_of(page) == queued, "what is served opens as it was published"

        await page.evaluate('document.querySelector(".tryon-tab-button").click()')
        shown = await page.wait_for(LISTED)
        assert {"mine", "demo (default)"} <= set(shown)
        await shot(page, dev, "listed")

        await page.evaluate("app.graph.remove(app.graph.getNodeById(9))")
        await publish(page, "mine")
        await page.wait_for(CLICKED % "overwrite")
        assert "add a TryOnOutput node" in await page.wait_for(TOAST % '"Not published"')
        await shot(page, dev, "refused")
        await publish(page, "../mine")
        assert "cannot be a name" in await page.wait_for(TOAST % '"../mine"')

        await page.evaluate(f'[...{PUBLISHED}].find(button => button.innerText === "Open").click()')
        await page.wait_for("!!app.graph.getNodeById(9)")
        assert await prompt_of(page) == queued, "a refused graph replaces nothing"
        await page.evaluate(f'[...{PUBLISHED}].find(button => button.innerText === "Withdraw").click()')
        await page.wait_for(CLICKED % "^\\s*delete")
        await page.wait_for(TOAST % '"is withdrawn"')
        await page.wait_for(f"!({PUBLISHED})")
        await shot(page, dev, "withdrawn")

    in_page(clicked)
    with dev.client() as client:
        assert client.post("/api/v1/tryon", json=fields | {"workflow": "mine"}).status_code == 404
    assert not (dev.workflows / "mine.json").exists()
