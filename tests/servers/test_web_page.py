"""ComfyUI's web page in --dev: the pack's nodes and examples in it, and publishing the open graph from its menu."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from comfyui_tryon.engine import current
from comfyui_tryon.workflows.format import to_prompt
from comfyui_tryon.workflows.store import LoadImage
from support.browser import CHROMIUM, Page, opened
from support.images import picture
from support.servers import ROOT, Server, comfyui_version

EXAMPLES = ROOT / "custom_nodes/comfyui_tryon/example_workflows"
PAGE_CATVTON = ROOT / "tests/data/workflows/page_catvton.json"
READY = """!!(window.app?.graph && app.extensionManager && document.querySelector("canvas")
    && window.LiteGraph?.registered_node_types["TryOnOutput"])"""
TOAST = """[...document.querySelectorAll(".p-toast-message")].map(toast => toast.innerText)
    .find(text => text.includes(%s))"""
LISTED = """[...document.querySelectorAll(".tryon h3")].map(title => title.innerText)"""
PUBLISHED = """[...document.querySelectorAll(".tryon article")]
    .find(article => article.querySelector("h3").innerText === "mine")?.querySelectorAll("button")"""
CLICKED = """[...document.querySelectorAll("button")].filter(button => /%s/i.test(button.innerText))
    .map(button => (button.click(), true))[0]"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM HERE: nothing of the web page is tested (apt install chromium)"
)


def in_page(server: Server, scenario) -> None:
    """Runs a coroutine function of a page; its last state is pictured into TRYON_TEST_SCREENSHOTS, if set."""

    async def run() -> None:
        async with opened(server.url + "/") as page:
            await page.wait_for(READY)
            try:
                await scenario(page)
            finally:
                await shot(page, server, scenario.__name__)

    asyncio.run(run())


async def shot(page: Page, server: Server, name: str) -> None:
    if folder := os.environ.get("TRYON_TEST_SCREENSHOTS"):
        await page.screenshot(Path(folder) / f"{comfyui_version(Path(server.engine))}-{name}.png")


async def open_graph(page: Page, document: dict) -> None:
    await page.evaluate(f"app.loadGraphData({json.dumps(document)}, true, true)")
    await page.wait_for(f"app.graph._nodes.length === {len(document['nodes'])}")


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


def test_graphs_convert_to_the_prompts_that_the_page_queues(dev):
    async def scenario(page: Page) -> None:
        for path in (*EXAMPLES.glob("*.json"), PAGE_CATVTON):
            document = json.loads(path.read_text())
            await open_graph(page, document)
            assert await prompt_of(page) == untitled(to_prompt(document, classes())), path

    in_page(dev, scenario)


def test_the_example_is_opened_changed_published_answers_and_is_withdrawn(dev, fields):
    async def scenario(page: Page) -> None:
        templates = await page.evaluate('fetch("/api/workflow_templates").then(reply => reply.json())')
        assert set(templates["comfyui_tryon"]) == {path.stem for path in EXAMPLES.glob("*.json")}
        address = "/api/workflow_templates/comfyui_tryon/demo"
        assert await page.evaluate(f'fetch("{address}.jpg").then(reply => reply.ok)')
        example = await page.evaluate(f'fetch("{address}.json").then(reply => reply.json())')

        del example["extra"]["linearMode"]  # a page in app mode draws no nodes, and loads no image for one
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
        assert not [message for message in page.messages if message.startswith("exception") and "tryon" in message]

    in_page(dev, scenario)
    with dev.client() as client:
        assert client.post("/api/v1/tryon", json=fields | {"workflow": "mine"}).status_code == 404
    assert not (dev.folder / "mine.json").exists()
