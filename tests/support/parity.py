"""Results of the published code to compare with: drawn cases of this repository, photographs if there are any."""

from pathlib import Path

from .servers import ROOT

DATA = ROOT / "tests/data/parity"
# Photographs may not be copied into the repository; a checkout that lies beside them compares these too.
PHOTOGRAPHS = ROOT.parent / "shared/parity"
CHECKPOINT = DATA / "sampler/checkpoint"


def sampler_cases() -> list[Path]:
    """Folders with person.png, garment.png, mask.png, case.json and output.png."""
    found = [path.parent for root in (DATA, PHOTOGRAPHS) for path in sorted(root.glob("sampler/*/case.json"))]
    return list({path.name: path for path in reversed(found)}.values())[::-1]
