#!/usr/bin/env bash
# Starts the try-on server; ./start.sh --help says how.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pack=$here/custom_nodes/comfyui_tryon
release=v0.3.64  # of ComfyUI, cloned if none is found

usage() {
  cat <<'EOF'
./start.sh                production: real weights, only the API is reachable
./start.sh --demo         small demo weights and a page to try them with; sets up everything on a bare machine
./start.sh --dev          ComfyUI's web page and own API on the same port, for editing workflows
./start.sh --demo --dev   both: the web page with the demo weights
./start.sh --test         the test suite
./start.sh --check        verifies files, versions, GPU and memory, and suggests fixes; needs no network
./start.sh --download     fetches CatVTON's weight files, about 3 GB
./start.sh --download fashn    those of FASHN VTON, 2.3 GB, which may be used commercially
                          (REPOSITORY@REVISION arguments choose revisions)

Arguments after -- go to ComfyUI. COMFYUI_DIR says where ComfyUI is; set but empty means the embedded engine.
Settings are environment variables, see README.md.
EOF
}

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'start.sh: %s\n' "$*" >&2; exit 1; }

mode=serve
case "${1:-}" in
  --demo | --dev | --test | --check | --download) mode=${1#--}; shift ;;
  -h | --help) usage; exit 0 ;;
  serve) export PORT=${SAGEMAKER_BIND_TO_PORT:-8080} TRYON_SAGEMAKER=1; unset PORT_HEALTH; shift ;;  # how Amazon SageMaker starts an image
  "" | --) ;;
  *) usage >&2; exit 2 ;;
esac
demo=
case "$mode ${1:-}" in
  "demo --dev" | "dev --demo") mode=dev demo=1; shift ;;
  demo\ *) demo=1 ;;
esac
arguments=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do arguments+=("$1"); shift; done
[ "${1:-}" = -- ] && shift
if [ ${#arguments[@]} -gt 0 ] && [ "$mode" != download ] && [ "$mode" != test ]; then
  fail "unexpected arguments: ${arguments[*]}. Arguments for ComfyUI go after --"
fi

find_comfyui() {
  if [ -n "${COMFYUI_DIR+set}" ]; then
    if [ -n "$COMFYUI_DIR" ] && [ ! -f "$COMFYUI_DIR/main.py" ]; then
      fail "COMFYUI_DIR=$COMFYUI_DIR holds no ComfyUI (no main.py)"
    fi
    printf '%s' "$COMFYUI_DIR"
    return
  fi
  local folder
  for folder in /comfyui "$HOME/comfy/ComfyUI" "$here/.comfyui"; do
    if [ -f "$folder/main.py" ]; then printf '%s' "$folder"; return; fi
  done
  [ "$mode" = demo ] || [ "$mode" = dev ] || return 0
  command -v git >/dev/null || return 0
  say "No ComfyUI found: cloning $release"
  if GIT_TERMINAL_PROMPT=0 timeout 300 git clone --quiet --depth 1 --branch "$release" \
    https://github.com/Comfy-Org/ComfyUI "$here/.comfyui.part" >&2; then
    mv "$here/.comfyui.part" "$here/.comfyui"
    printf '%s' "$here/.comfyui"
  else
    rm -rf "$here/.comfyui.part"
    say "It cannot be cloned"
  fi
}

has_gpu() { [ -e /dev/nvidiactl ] || [ -e /dev/kfd ] || [ "$(uname -s)" = Darwin ]; }

has_packages() {  # by name, importing none of them: this runs at every start
  "$1" - "$pack/requirements.txt" >/dev/null 2>&1 <<'EOF'
import importlib.metadata, re, sys
for line in open(sys.argv[1]):
    if name := re.match(r"[\w.-]+", line):
        importlib.metadata.version(name[0])
EOF
}

find_python() {
  local candidate
  for candidate in python3.12 python3.11 python3.13 python3.10 python3 python; do
    if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "needs Python 3.10 to 3.13 with venv (on Debian or Ubuntu: apt install python3 python3-venv)"
}

# Runs pip once for the same arguments and content of the requirement file, its last argument.
install_once() {
  local stamp
  stamp=$here/.venv/.installed-$( (echo "$@"; cat "${!#}") | cksum | cut -d' ' -f1)
  if [ ! -f "$stamp" ]; then
    "$python" -m pip install --disable-pip-version-check "$@" >&2
    touch "$stamp"
  fi
}

set_up() {
  python=$here/.venv/bin/python
  if [ ! -x "$python" ]; then
    if [ "$mode" != test ] && has_packages "$(command -v python3 || echo false)"; then
      python=$(command -v python3)
      return
    fi
    [ "$mode" != check ] || fail "no Python with the packages; the other modes install them into .venv"
    local base
    base=$(find_python)
    say "Making .venv with $("$base" --version)"
    "$base" -m venv "$here/.venv"
  fi
  if [ "$mode" = check ]; then return; fi
  if ! has_packages "$python"; then
    say "Installing PyTorch and the packages; the first time takes some minutes"
    if ! has_gpu && "$python" -c '
import urllib.request
urllib.request.urlopen("https://download.pytorch.org/whl/cpu/torch/", timeout=5)' 2>/dev/null; then
      export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu  # without CUDA: a tenth of the size
    fi
  fi
  # torchaudio, which ComfyUI imports, has had its last release and does not load with torch 2.15
  install_once 'torch>=2.6,<2.15' torchvision torchaudio -r "$pack/requirements.txt"
  if [ "$mode" = test ]; then install_once -r "$here/tests/requirements.txt"; fi
  if [ -n "$comfyui" ]; then
    local requirements
    requirements=$here/.venv/requirements-$(cksum <"$comfyui/requirements.txt" | cut -d' ' -f1).txt
    if [ ! -f "$requirements" ]; then
      grep -vE '^comfyui-' "$comfyui/requirements.txt" >"$requirements.$$"
      mv "$requirements.$$" "$requirements"
    fi
    install_once -r "$requirements"
  fi
}

# ComfyUI pins the packages of its web page to one version each, so every ComfyUI gets its own folder for them.
web_packages() {
  local pins folder
  pins=$(grep -E '^comfyui-' "$1/requirements.txt" | tr -d '\r')
  case $python in "$here"/.venv/*) ;; *) return ;; esac
  folder=$here/.venv/web/$(printf '%s' "$pins" | cksum | cut -d' ' -f1)
  if [ ! -d "$folder" ]; then
    say "Installing ComfyUI's web page"
    rm -rf "$folder.part"
    # shellcheck disable=SC2086
    "$python" -m pip install --disable-pip-version-check --quiet --target "$folder.part" $pins >&2
    mv "$folder.part" "$folder"
  fi
  printf '%s' "$folder"
}

# Whether the folders exist is found out by the extension, which knows all of ComfyUI's folders for packs.
packs=(comfyui_tryon)
IFS=, read -r -d '' -a names <<<"${TRYON_PACKS:-}" || true
for name in ${names[@]+"${names[@]}"}; do
  name=${name#"${name%%[![:space:]]*}"}
  name=${name%"${name##*[![:space:]]}"}
  case $name in
    "") ;;
    -* | .* | */*) fail "TRYON_PACKS has '$name': list folders of ComfyUI's custom_nodes by their names, separated by commas" ;;
    *) packs+=("$name") ;;
  esac
done

if [ "$mode" != test ]; then  # a link to the pack does not say where they are
  export TRYON_WORKFLOWS_DIR=${TRYON_WORKFLOWS_DIR:-$here/workflows}
fi
for name in TRYON_MODELS_DIR TRYON_WORKFLOWS_DIR; do  # ComfyUI starts in its own folder
  case ${!name:-} in "" | /*) ;; *) export "$name=$PWD/${!name}" ;; esac
done
comfyui=$(find_comfyui)
set_up
export PYTHONPATH=$here/custom_nodes${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${AIP_HTTP_PORT:-}" ]; then export PORT=$AIP_HTTP_PORT; unset PORT_HEALTH; fi  # Vertex AI
export PORT=${PORT:-8000} HF_HUB_DISABLE_TELEMETRY=1

# In --dev everybody who connects can run any node and write files.
if [ "$mode" != dev ]; then export LISTEN=${LISTEN:-0.0.0.0}; else export LISTEN=${LISTEN:-127.0.0.1}; fi

if ! has_gpu && [ -z "${OMP_WAIT_POLICY:-}" ]; then  # threads that wait leave the cores to other processes
  export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-0}
fi

if [ -z "${OMP_NUM_THREADS:-}" ]; then  # more threads than a container's CPU quota would be stopped together
  threads=$("$python" -IS "$pack/cpus.py")
  [ -z "$threads" ] || export OMP_NUM_THREADS=$threads
fi

# The page to try the API with. In production it would be one more path that strangers reach.
case $mode in demo | dev) export TRYON_PLAYGROUND=${TRYON_PLAYGROUND:-1} ;; esac

# ComfyUI takes a while to load, and unlocked it would go on without the extension.
case $mode in demo | dev) "$python" -m comfyui_tryon.settings || exit 1 ;; esac

if [ -n "$demo" ]; then
  export TRYON_MODELS_DIR=${TRYON_MODELS_DIR:-$here/.demo/models} TRYON_WORKFLOW=${TRYON_WORKFLOW:-demo}
  "$python" -m comfyui_tryon.demo "$here/.demo"
fi

case $mode in
  test)
    [ -z "$comfyui" ] || web_packages "$comfyui" >/dev/null  # else two servers that start at once would install them
    unset PYTHONDONTWRITEBYTECODE  # every server would compile ComfyUI again
    if [ ${#arguments[@]} -eq 0 ]; then
      arguments=(-n auto)
      export OMP_NUM_THREADS=1  # there is a worker for each core
    fi
    cd "$here"
    exec "$python" -m pytest "${arguments[@]}"
    ;;
  download)
    exec "$python" -m comfyui_tryon.weights.download "${arguments[@]}"
    ;;
  dev)
    export TRYON_LOCKED=${TRYON_LOCKED:-0}
    case "$LISTEN $*" in
      *--listen*) say "Warning: --dev opens ComfyUI's own API to everybody who reaches this machine: --listen" ;;
      "127.0.0.1 "* | "localhost "* | "::1 "*) ;;
      *) say "Warning: --dev opens ComfyUI's own API to everybody who reaches this machine: LISTEN=$LISTEN" ;;
    esac
    ;;
  check)
    exec "$python" -m comfyui_tryon.check --table "$comfyui" --extra-model-paths-config "$here/extra_model_paths.yaml" "$@"
    ;;
  serve)
    "$python" -m comfyui_tryon.check "$comfyui" --extra-model-paths-config "$here/extra_model_paths.yaml" "$@" || exit 1
    ;;
esac

export TRYON_LOCKED=${TRYON_LOCKED:-1}

if [ -z "$comfyui" ]; then
  [ $# -eq 0 ] || fail "found no ComfyUI for the arguments after --"
  [ ${#packs[@]} -eq 1 ] || fail "found no ComfyUI to load TRYON_PACKS: set COMFYUI_DIR, or unset TRYON_PACKS"
  exec "$python" -u -m comfyui_tryon
fi

state=$here/.run/$PORT
mkdir -p "$state" 2>/dev/null && [ -w "$state" ] || state=$(mktemp -d)
options=(--listen "$LISTEN" --port "$PORT" --disable-auto-launch --cache-classic
  --extra-model-paths-config "$here/extra_model_paths.yaml")
if ! has_gpu; then
  options+=(--cpu)
  [ "$mode" != serve ] || say "No GPU here: an image takes minutes on the CPU"
fi
if [ "$mode" != dev ]; then
  mkdir -p "$state"/{user,input,output,temp}
  options+=(--disable-metadata --disable-all-custom-nodes --whitelist-custom-nodes "${packs[@]}" --disable-api-nodes
    --user-directory "$state/user" --input-directory "$state/input" --output-directory "$state/output"
    --temp-directory "$state/temp" --database-url "sqlite:///$state/user/comfyui.db")
fi
web=$(web_packages "$comfyui")
export PYTHONPATH=${web:+$web:}$PYTHONPATH
cd "$comfyui"
exec "$python" -u "$pack/guard.py" main.py "${options[@]}" "$@"
