"""Three workers behind HAProxy under load, one drained, one killed: `python tests/balancer.py [clients] [requests]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom_nodes"), str(ROOT / "training")]

from support.balancer import main  # noqa: E402

main()
