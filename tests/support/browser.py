"""A page in headless Chromium, driven over the DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a camera that shows a moving pattern
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--window-size=1600,1000", "--no-first-run",
)  # fmt: skip
CALL_TIMEOUT_S = 120


class PageError(Exception):
    """The page's script threw, or it did not come to the awaited state."""


class Page:
    """One page. `messages` has what it wrote to its console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future] = {}
        self.messages: list[str] = []

    async def listen(self) -> None:
        """Reads what the browser sends; run it as a task."""
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._replies.pop(content["id"]).set_result(content)
            elif content.get("method") == "Runtime.consoleAPICalled":
                shown = (str(item.get("value", item.get("description"))) for item in content["params"]["args"])
                self.messages.append(f"{content['params']['type']}: {' '.join(shown)}")
            elif content.get("method") == "Log.entryAdded":  # what a policy forbids, and what could not be loaded
                entry = content["params"]["entry"]
                self.messages.append(f"{entry['source']}: {entry['text']}")
            elif content.get("method") == "Runtime.exceptionThrown":
                self.messages.append(f"exception: {json.dumps(content['params']['exceptionDetails'])[:600]}")

    async def call(self, method: str, **parameters: Any) -> dict:
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        content = await asyncio.wait_for(reply, CALL_TIMEOUT_S)
        if "error" in content:
            raise PageError(content["error"])
        return content["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise PageError(json.dumps(result["exceptionDetails"])[:1500])
        return result["result"].get("value")

    async def wait_for(self, script: str, timeout_s: float = 90) -> Any:
        """The value of the expression once it is true."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        problem: Any = "is never true"
        while asyncio.get_running_loop().time() < deadline:
            try:
                if value := await self.evaluate(script):
                    return value
            except PageError as error:
                problem = error
            await asyncio.sleep(0.2)
        raise PageError(f"{script}: {problem}; console: {self.messages[-10:]}")

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def click(self, selector: str) -> None:
        """Clicks an element as a script does; it must be there."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def enter(self, values: dict[str, str]) -> None:
        """Changes form controls, which are found by their names."""
        await self.evaluate(f"""for (const [name, value] of Object.entries({json.dumps(values)})) {{
            const control = document.querySelector(`[name=${{name}}]`);
            control.value = value;
            control.dispatchEvent(new Event("input", {{bubbles: true}}));
        }}""")

    async def drag(self, selector: str, *points: tuple[float, float]) -> None:
        """Drags the mouse from the first to the last of these places of an element, which are shares of its size."""
        box = await self.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*places, places[-1]], strict=True):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    async def choose(self, selector: str, *files: Path) -> None:
        """Chooses files in a file control."""
        document = await self.call("DOM.getDocument")
        found = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file) for file in files])

    async def resize(self, width: int, height: int, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    async def screenshot(self, path: Path) -> None:
        result = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(result["data"]))


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    """A page at `url` in a browser of its own, which ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as session:
                address = await _address(session, Path(profile) / "DevToolsActivePort")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    await page.call("Page.enable")
                    await page.call("Runtime.enable")
                    await page.call("Log.enable")
                    await page.call("Page.navigate", url=url)
                    yield page
                    listening.cancel()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _address(session: aiohttp.ClientSession, port_file: Path) -> str:
    for _ in range(300):
        with contextlib.suppress(OSError, IndexError, aiohttp.ClientError):
            port = port_file.read_text().split()[0]
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                pages = [target for target in await reply.json() if target["type"] == "page"]
                return pages[0]["webSocketDebuggerUrl"]
        await asyncio.sleep(0.2)
    raise PageError("Chromium did not start")
