"""What ours is compared with: the usual wrapper, a process of its own that calls ComfyUI's HTTP API.

    COMFYUI_URL=http://127.0.0.1:8188 WAIT=websocket|polling uvicorn wrapper:app

It takes and gives what `POST /api/v1/tryon` does: uploads both images, queues the graph, waits for its end on one
websocket or by asking for its history every 0.25 s, reads the history, fetches the image.
"""

import asyncio
import base64
import binascii
import contextlib
import copy
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import websockets
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict

URL = os.environ["COMFYUI_URL"]
POLLS = os.environ["WAIT"] == "polling"
OUTPUT = os.environ.get("OUTPUT", "SaveImage")
POLL_S = 0.25
CLIENT_ID = str(uuid.uuid4())
GRAPH = json.loads((Path(__file__).parent / "workflows/blend.json").read_text())


class TryonRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    person_image: str
    garment_image: str


client = httpx.AsyncClient(base_url=URL, timeout=300, limits=httpx.Limits(max_connections=None))
waiting: dict[str, asyncio.Future[None]] = {}


async def listen() -> None:
    """Resolves the futures of the prompts that end."""
    address = f"{URL.replace('http', 'ws')}/ws?clientId={CLIENT_ID}"
    async for socket in websockets.connect(address, max_size=None):
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in socket:
                if isinstance(message, bytes):
                    continue
                event = json.loads(message)
                data = event.get("data", {})
                ended = waiting.get(data.get("prompt_id"))
                if ended is None or ended.done():
                    continue
                if event["type"] == "executing" and data["node"] is None:
                    ended.set_result(None)
                elif event["type"] == "execution_error":
                    ended.set_exception(HTTPException(500, data["exception_message"]))


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    listener = None if POLLS else asyncio.create_task(listen())
    yield
    if listener:
        listener.cancel()
    await client.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/ping")
async def ping() -> dict[str, str]:
    (await client.get("/queue")).raise_for_status()
    return {"status": "healthy"}


@app.post("/api/v1/tryon")
async def tryon(request: TryonRequest) -> dict[str, Any]:
    started = time.perf_counter()
    person, garment = await asyncio.gather(upload(request.person_image), upload(request.garment_image))
    graph = copy.deepcopy(GRAPH)
    graph["1"]["inputs"]["image"] = person
    graph["2"]["inputs"]["image"] = garment
    if OUTPUT != "SaveImage":
        graph["4"] = {"class_type": OUTPUT, "inputs": {"images": graph["4"]["inputs"]["images"]}}
    prompt_id = str(uuid.uuid4())
    ended = waiting[prompt_id] = asyncio.get_running_loop().create_future()
    try:
        queued = await client.post("/prompt", json={"prompt": graph, "prompt_id": prompt_id, "client_id": CLIENT_ID})
        if queued.status_code != 200:
            raise HTTPException(500, queued.text)
        if POLLS:
            while not (entry := (await history(prompt_id))):
                await asyncio.sleep(POLL_S)
        else:
            await ended
            entry = await history(prompt_id)
    finally:
        del waiting[prompt_id]
    if entry["status"]["status_str"] != "success":
        raise HTTPException(500, "the workflow failed")
    pictures = [picture for output in entry["outputs"].values() for picture in output.get("images", ())]
    fetched = await asyncio.gather(*(client.get("/view", params=picture) for picture in pictures))
    return {
        "id": prompt_id,
        "output": {"images": [{"image": base64.b64encode(r.content).decode(), "format": "png"} for r in fetched]},
        "timings": {"total_s": round(time.perf_counter() - started, 4)},
    }


async def upload(picture: str) -> str:
    """Puts a image into ComfyUI's input folder; returns the name that LoadImage takes."""
    try:
        data = base64.b64decode(picture, validate=True)
    except binascii.Error:
        raise HTTPException(422, "not base64") from None
    name = f"{uuid.uuid4()}.png"
    reply = await client.post(
        "/upload/image", files={"image": (name, data, "image/png")}, data={"subfolder": "wrapper", "type": "input"}
    )
    reply.raise_for_status()
    stored = reply.json()
    return f"{stored['subfolder']}/{stored['name']}"


async def history(prompt_id: str) -> dict[str, Any] | None:
    return (await client.get(f"/history/{prompt_id}")).json().get(prompt_id)
