"""The application backend's part: one direct call, no queue, no polling. Needs `pip install ./clients/python`.

python backend.py person.jpg garment.jpg result.png

TRYON_URL is the worker's or the load balancer's address, https://ENDPOINT_ID.api.runpod.ai on RunPod;
RUNPOD_API_KEY goes to it as the bearer.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

from tryon_client import AsyncTryOn, TryOnError

BEARER = os.environ.get("RUNPOD_API_KEY")

logger = logging.getLogger("backend")


async def try_on(person: Path, garment: Path, output: Path) -> None:
    """Writes `output`, a PNG file: the person wearing the garment."""
    async with AsyncTryOn(headers={"Authorization": f"Bearer {BEARER}"} if BEARER else None) as client:
        result = await client.try_on(person, garment)
    logger.info("request %s: %.1f s, seed %s", result.id, result.timings.total_s, result.seed)
    result.images[0].save(output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(try_on(*map(Path, sys.argv[1:4])))
    except TryOnError as error:
        sys.exit(str(error))
