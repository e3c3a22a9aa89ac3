"""`python -m comfyui_tryon.demo FOLDER`: writes the demo's weights and sample images, and says how to send them."""

import os
import shutil
import sys
from pathlib import Path

from . import SAMPLES, checkpoint

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    checkpoint.write(folder / "models")
    for sample in SAMPLES.glob("*.png"):
        shutil.copy(sample, folder)
    shown = os.path.relpath(folder)
    print(
        f"""
When it says Ready, send the sample images from another terminal:

  curl http://127.0.0.1:{os.environ.get("PORT", "8000")}/api/v1/tryon -H 'Accept: image/png' \\
    -F person_image=@{shown}/person.png -F garment_image=@{shown}/garment.png -o result.png
""",
        flush=True,
    )
