"""The application backend's part: one direct call, no queue, no polling. Needs httpx.

python backend.py person.jpg garment.jpg result.png

TRYON_ENDPOINT is the worker's or the load balancer's address, https://ENDPOINT_ID.api.runpod.ai on RunPod;
RUNPOD_API_KEY goes to it as the bearer.
"""

import asyncio
import base64
import logging
import os
import sys
from pathlib import Path

import httpx

ENDPOINT = os.environ.get("TRYON_ENDPOINT", "http://127.0.0.1:8000")
BEARER = os.environ.get("RUNPOD_API_KEY", "")

logger = logging.getLogger("backend")


async def tryon(person: Path, garment: Path, result: Path) -> None:
    """Writes `result`, a PNG file: the person wearing the garment."""
    payload = {
        "person_image": base64.b64encode(person.read_bytes()).decode(),
        "garment_image": base64.b64encode(garment.read_bytes()).decode(),
    }
    headers = {"Authorization": f"Bearer {BEARER}"} if BEARER else {}
    async with httpx.AsyncClient() as client:
        response = await client.post(f"{ENDPOINT}/api/v1/tryon", headers=headers, json=payload, timeout=300)
    logger.info("request %s: %d", response.headers.get("X-Request-Id"), response.status_code)
    if response.is_error:
        logger.error("%s", response.text)
    response.raise_for_status()
    output = response.json()["output"]
    result.write_bytes(base64.b64decode(output["images"][0]["image"]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(tryon(*map(Path, sys.argv[1:4])))
