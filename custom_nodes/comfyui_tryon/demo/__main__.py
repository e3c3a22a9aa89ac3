"""`python -m comfyui_tryon.demo FOLDER`: writes the demo's weights and sample images, and says how to send them."""

import os
import shutil
import sys
from pathlib import Path

from ..settings import settings
from . import SAMPLES, checkpoint

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    checkpoint.write(folder / "models")
    for sample in SAMPLES.glob("*.png"):
        shutil.copy(sample, folder)
    shown = os.path.relpath(folder)
    address = f"http://127.0.0.1:{settings().port}"
    page = f"When it says Ready, open this page:\n\n  {address}/playground\n\nOr send" if settings().playground else ""
    print(
        f"""
{page or "When it says Ready, send"} the sample images from another terminal:

  curl {address}/api/v1/tryon -H 'Accept: image/png' \\
    -F person_image=@{shown}/person.png -F garment_image=@{shown}/garment.png -o result.png
""",
        flush=True,
    )
