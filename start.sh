#!/usr/bin/env bash
# Starts the try-on server on Linux and macOS; ./start.sh --help says how. What it does is in Python, in
# custom_nodes/comfyui_tryon/launch, which Windows starts as `python -m comfyui_tryon`.
set -euo pipefail

# If the caller closed one of these, a file or socket would get its number.
if [ -d /dev/fd ]; then
  [ -e /dev/fd/0 ] || exec </dev/null
  [ -e /dev/fd/1 ] || exec >/dev/null
  [ -e /dev/fd/2 ] || exec 2>/dev/null
fi

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do  # macOS has no readlink -f
  target=$(readlink "$script")
  case $target in /*) script=$target ;; *) script=$(dirname "$script")/$target ;; esac
done
here=$(CDPATH='' cd "$(dirname "$script")" && pwd)

find_python() {
  local needed candidate
  for needed in "import ensurepip, venv" "pass"; do  # Debian has them apart, and whoever has the packages needs none
    for candidate in "$here/.venv/bin/python" python3.12 python3.11 python3.13 python3.10 python3 python; do
      if "$candidate" -I -c "import sys; $needed; sys.exit(not (3, 10) <= sys.version_info < (3, 14))" 2>/dev/null; then
        command -v "$candidate"
        return
      fi
    done
  done
  echo "start.sh: needs Python 3.10 to 3.13 with venv (on Debian or Ubuntu: apt install python3 python3-venv)" >&2
  return 1
}

python=$(find_python)
[ $# -gt 0 ] && [ "$1" != -- ] || set -- --serve "$@"
export PYTHONPATH=$here/custom_nodes${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$here/custom_nodes/comfyui_tryon/launch/run.py" comfyui_tryon "$@"
