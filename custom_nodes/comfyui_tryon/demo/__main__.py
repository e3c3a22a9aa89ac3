"""`python -m comfyui_tryon.demo FOLDER`: writes the demo's weights and sample images, and says how to send them."""

import os
import shutil
import sys
from pathlib import Path

from .. import log
from ..settings import SettingsError, settings
from . import SAMPLES, checkpoint

if __name__ == "__main__":
    log.keep_printing()
    try:
        chosen = settings()
    except SettingsError as error:
        sys.exit(str(error))
    folder = Path(sys.argv[1])
    checkpoint.write(folder / "models")
    for sample in SAMPLES.glob("*.png"):
        shutil.copy(sample, folder)
    shown = os.path.relpath(folder)
    address = f"http://127.0.0.1:{chosen.port}"
    page = f"When it says Ready, open this page:\n\n  {address}/playground\n\nOr send" if chosen.playground else ""
    options = ["-H 'Accept: image/png'", f"-F person_image=@{shown}/person.png -F garment_image=@{shown}/garment.png"]
    if os.name == "nt":  # where curl is another command in PowerShell, and lines go on in other ways
        command = " ".join([f"curl.exe {address}/api/v1/tryon", *options]).replace("'", '"')
    else:
        command = f"curl {address}/api/v1/tryon {options[0]} \\\n    {options[1]}"
    print(
        f"""
{page or "When it says Ready, send"} the sample images from another terminal:

  {command} -o result.png
""",
        flush=True,
    )
