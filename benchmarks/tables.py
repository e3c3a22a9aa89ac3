"""Prints results again as the tables of docs/benchmarks.md.

python benchmarks/tables.py benchmarks/results/gpu_*.json
"""

import json
import sys
from pathlib import Path

from common import table


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        found = json.loads(path.read_text())
        facts = {key: value for key, value in found.items() if key != "rows"}
        print(f"\n{path.stem}: {json.dumps(facts)}\n\n{table(found['rows'])}")


if __name__ == "__main__":
    main()
