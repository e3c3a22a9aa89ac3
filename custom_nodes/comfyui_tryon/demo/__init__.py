"""Holds what the quick start needs: small weights in the published layout, and sample images in `samples/`."""

from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
