"""`python -m comfyui_tryon.demo FOLDER`: the demo's weights and sample pictures, and how to send them."""

import os
import sys
from pathlib import Path

from . import checkpoint, samples

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    checkpoint.write(folder / "models")
    pictures = {name: os.path.relpath(path) for name, path in samples.write(folder).items()}
    print(
        f"""
When it says Ready, send the sample pictures from another terminal:

  curl http://127.0.0.1:{os.environ.get("PORT", "8000")}/api/v1/tryon -H 'Accept: image/png' \\
    -F person_image=@{pictures["person"]} -F garment_image=@{pictures["garment"]} -o result.png
""",
        flush=True,
    )
