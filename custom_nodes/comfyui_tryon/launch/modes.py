"""The modes of `./start.sh`: each sets defaults in the environment and ends in the process that does the work."""

import os
import subprocess
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from .. import cpus, log
from ..guard import combined, ending_when_told
from .host import COMMAND, IS_WINDOWS, REPOSITORY, RUN, fail, find_comfyui, has_gpu, say
from .packages import set_up, web_packages

GUARD = REPOSITORY / "custom_nodes/comfyui_tryon/guard.py"
MODEL_PATHS = REPOSITORY / "extra_model_paths.yaml"
MODES = ("demo", "dev", "test", "check", "download")
USAGE = f"""\
{COMMAND}{" --serve" if IS_WINDOWS else "        "}        production: real weights, only the API is reachable
{COMMAND} --demo         small demo weights and a page to try them with; sets up everything on a bare machine
{COMMAND} --dev          ComfyUI's web page and own API on the same port, for editing workflows
{COMMAND} --demo --dev   both: the web page with the demo weights
{COMMAND} --test         the test suite
{COMMAND} --check        verifies files, versions, GPU and memory, and suggests fixes; needs no network
{COMMAND} --download     fetches CatVTON's weight files, about 3 GB
{COMMAND} --download fashn    those of FASHN VTON, 2.3 GB, which may be used commercially
                          (REPOSITORY@REVISION arguments choose revisions)

Arguments after -- go to ComfyUI. COMFYUI_DIR says where ComfyUI is; set but empty means the embedded engine.
Settings are environment variables, see README.md."""
LOCAL = {"127.0.0.1", "localhost", "::1"}


@dataclass
class Asked:
    """What was asked for on the command line.

    Attributes:
        arguments: those of the mode itself.
        host: those after --, for ComfyUI.
    """

    mode: str = "serve"
    demo: bool = False
    arguments: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=list)


def parse(words: Sequence[str], environment: MutableMapping[str, str]) -> Asked:
    """Reads the command line; `serve`, as Amazon SageMaker starts an image, sets its port in `environment`."""
    asked, rest = Asked(), list(words)
    first = rest[0] if rest else "--"
    if first in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    if first == "serve":
        environment["PORT"] = environment.get("SAGEMAKER_BIND_TO_PORT") or "8080"
        environment["TRYON_SAGEMAKER"] = "1"
        environment.pop("PORT_HEALTH", None)
        del rest[0]
    elif first == "--serve":
        del rest[0]
    elif first != "--" and first.removeprefix("--") in MODES and first.startswith("--"):
        asked.mode = first.removeprefix("--")
        del rest[0]
        if {first, *rest[:1]} == {"--demo", "--dev"}:
            asked.mode = "dev"
            del rest[0]
            asked.demo = True
        asked.demo = asked.demo or asked.mode == "demo"
    elif first != "--":
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    end = rest.index("--") if "--" in rest else len(rest)
    asked.arguments, asked.host = rest[:end], rest[end + 1 :]
    if asked.arguments and asked.mode not in ("download", "test"):
        fail(f"unexpected arguments: {' '.join(asked.arguments)}. Arguments for ComfyUI go after --")
    return asked


def packs_of(names: str) -> list[str]:
    """Returns the packs that a locked ComfyUI loads: this one, and those in TRYON_PACKS.

    Whether their folders exist is found out by the extension, which knows all of ComfyUI's folders for packs.
    """
    packs = ["comfyui_tryon"]
    for name in filter(None, map(str.strip, names.split(","))):
        if name.startswith(("-", ".")) or "/" in name:
            fail(
                f"TRYON_PACKS has '{name}': list folders of ComfyUI's custom_nodes by their names, separated by commas"
            )
        packs.append(name)
    return packs


def prepare(asked: Asked, environment: MutableMapping[str, str], python: Path | None = None) -> None:
    """Sets what the mode, the platform and the machine, with its `python`, ask for in `environment`; what is set there
    stays."""
    if asked.mode != "test":  # a link to the pack does not say where they are
        _default(environment, "TRYON_WORKFLOWS_DIR", str(REPOSITORY / "workflows"))
    for name in ("TRYON_MODELS_DIR", "TRYON_WORKFLOWS_DIR"):  # ComfyUI starts in its own folder
        if environment.get(name):
            environment[name] = os.path.join(os.getcwd(), environment[name])
    _put_first(environment, REPOSITORY / "custom_nodes")
    if port := environment.get("AIP_HTTP_PORT"):  # Vertex AI
        environment["PORT"] = port
        environment.pop("PORT_HEALTH", None)
    _default(environment, "PORT", "8000")
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # In --dev everybody who connects can run any node and write files.
    _default(environment, "LISTEN", "127.0.0.1" if asked.mode == "dev" else "0.0.0.0")
    # threads that wait leave the cores to other processes
    if not has_gpu(python) and not environment.get("OMP_WAIT_POLICY"):
        environment["OMP_WAIT_POLICY"] = "passive"
        _default(environment, "GOMP_SPINCOUNT", "0")
    if asked.mode == "test":  # its processes and their servers keep all cores busy, and more threads would wait
        _default(environment, "OMP_NUM_THREADS", "1")
    threads = cpus.limit()
    if threads:  # more threads than a container's CPU quota would be stopped together
        _default(environment, "OMP_NUM_THREADS", str(threads))
    # The page to try the API with. In production it would be one more path that strangers reach.
    if asked.mode in ("demo", "dev"):
        _default(environment, "TRYON_PLAYGROUND", "1")


@ending_when_told(sys.exit)  # which ends the pip or git that is running, too
def main(words: Sequence[str]) -> NoReturn:
    environment = os.environ
    log.keep_printing(log.is_json())
    asked = parse(words, environment)
    if not MODEL_PATHS.is_file():
        fail("this needs the whole repository: git clone https://github.com/comfyui-tryon/comfyui-tryon")
    try:
        os.getcwd()
    except OSError as error:
        fail(f"the current folder cannot be used ({error.strerror}): change to another one")
    packs = packs_of(environment.get("TRYON_PACKS", ""))
    comfyui = find_comfyui(may_clone=asked.mode in ("demo", "dev"))
    python = set_up(asked.mode, comfyui)
    prepare(asked, environment, python)
    combined(asked.host)  # PORT and LISTEN follow ComfyUI's own arguments
    # Both read the settings: ComfyUI takes a while to load, and unlocked it would go on without the extension.
    if asked.demo:
        folder = _state_folder(REPOSITORY / ".demo")
        _default(environment, "TRYON_MODELS_DIR", str(folder / "models"))
        _default(environment, "TRYON_WORKFLOW", "demo")
        _must(python, "comfyui_tryon.demo", str(folder))
    elif asked.mode == "dev":
        _must(python, "comfyui_tryon.settings")
    checked = [str(comfyui or ""), "--extra-model-paths-config", str(MODEL_PATHS), *asked.host]
    if asked.mode == "test":
        _test(python, comfyui, asked.arguments)
    elif asked.mode == "download":
        _become([python, RUN, "comfyui_tryon.weights.download", *asked.arguments])
    elif asked.mode == "check":
        _become([python, RUN, "comfyui_tryon.check", "--table", *checked])
    elif asked.mode == "dev":
        _default(environment, "TRYON_LOCKED", "0")
        if not LOCAL.issuperset(environment["LISTEN"].split(",")):
            listen = environment["LISTEN"]
            say(f"Warning: --dev opens ComfyUI's own API to everybody who reaches this machine: LISTEN={listen}")
    elif asked.mode == "serve":
        _must(python, "comfyui_tryon.check", *checked)
    _default(environment, "TRYON_LOCKED", "1")
    _serve(python, comfyui, packs, asked)


def _serve(python: Path, comfyui: Path | None, packs: list[str], asked: Asked) -> NoReturn:
    environment = os.environ
    if not comfyui:
        if asked.host:
            fail("found no ComfyUI for the arguments after --")
        if len(packs) > 1:
            fail("found no ComfyUI to load TRYON_PACKS: set COMFYUI_DIR, or unset TRYON_PACKS")
        _become([python, "-u", RUN, "comfyui_tryon"])
    state = _state_folder(REPOSITORY / ".run" / environment["PORT"])
    options = ["--listen", environment["LISTEN"], "--port", environment["PORT"], "--disable-auto-launch"]
    options += ["--cache-classic", "--extra-model-paths-config", str(MODEL_PATHS)]
    if not has_gpu(python):
        options.append("--cpu")
        if asked.mode == "serve":
            say("No GPU here: an image takes minutes on the CPU")
    if asked.mode != "dev":
        options += ["--disable-metadata", "--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
        options += ["--disable-api-nodes", "--database-url", f"sqlite:///{(state / 'user/comfyui.db').as_posix()}"]
        for name in ("user", "input", "output", "temp"):
            (state / name).mkdir(exist_ok=True)
            options += [f"--{name}-directory", str(state / name)]
    web = web_packages(python, comfyui)
    if web:
        _put_first(environment, web)
    os.chdir(comfyui)
    _become([python, "-u", GUARD, "main.py", *options, *asked.host])


def _test(python: Path, comfyui: Path | None, arguments: list[str]) -> NoReturn:
    if comfyui:
        web_packages(python, comfyui)  # else two servers that start at once would install them
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every server would compile ComfyUI again
    if not arguments:
        arguments = ["-n", "auto"]
        os.environ["OMP_NUM_THREADS"] = "1"  # there is a worker for each core
    os.chdir(REPOSITORY)
    _become([python, "-m", "pytest", *arguments])


def _state_folder(folder: Path) -> Path:
    """Returns `folder`, or another one where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    try:
        return Path(tempfile.mkdtemp(prefix="tryon-"))
    except OSError:
        fail(f"neither {folder} nor a temporary folder can be written to: set TMPDIR to one that can")


def _default(environment: MutableMapping[str, str], name: str, value: str) -> None:
    """Sets a variable that is not set, or empty."""
    environment[name] = environment.get(name) or value


def _put_first(environment: MutableMapping[str, str], folder: Path) -> None:
    others = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(folder))]
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *others])


def _must(python: Path, *arguments: str) -> None:
    if subprocess.run([str(python), str(RUN), *arguments]).returncode:
        sys.exit(1)


def _become(command: Sequence[str | Path]) -> NoReturn:
    """Ends in `command`, which then is the process that gets the signals; Windows can only wait for it."""
    words = [str(word) for word in command]
    sys.stdout.flush()
    sys.stderr.flush()
    if not IS_WINDOWS:
        os.execv(words[0], words)
    process = subprocess.Popen(words)
    while True:
        try:
            sys.exit(process.wait())
        except KeyboardInterrupt:  # the server gets it too, and drains
            pass
