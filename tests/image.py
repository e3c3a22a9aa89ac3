"""Builds the Dockerfile without a container engine, step by step, and runs what it builds as `docker run` would.

    python tests/image.py [--weights FOLDER] [--port PORT]

Needs Linux, root, Debian's buildah and debootstrap, uv, Pythons 3.12 and 3.13, and ComfyUI 0.3.44 in COMFYUI_DIR or
~/comfy/ComfyUI-0.3.44. buildah executes the Dockerfile's own steps. Base images that are not here (`buildah pull`) are
made of Debian and what the real ones contain. The weights come from a stand-in for the hub: FOLDER's, laid out as
`--download` does, or small ones. In namespaces of its own, as root and as another user, on a writable root and on a
read-only one with a writable /tmp, the image is started, asked for images and stopped while it makes one.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))

from comfyui_tryon.demo import checkpoint
from comfyui_tryon.weights import files
from support.hub import Hub, serving
from support.servers import ROOT

TAG = "localhost/comfyui-tryon"
BARE = "localhost/comfyui-tryon-bare"  # without weights
DEBIAN = "localhost/tryon-debian"
DOWNLOADER = "docker.io/library/python:3.13-slim"
WORKER = "docker.io/runpod/worker-comfyui:5.4.0-base"
# What Python's own modules link to, and of the worker's packages those that ComfyUI needs.
PACKAGES = """ca-certificates wget libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libreadline8 libncursesw6 libgl1
libglib2.0-0""".split()
TORCH = ["torch==2.8.0", "torchvision==0.23.0", "torchaudio==2.8.0"]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

START_TIMEOUT_S = 300
FIELDS = {"num_inference_steps": "2", "width": "128", "height": "192", "seed": "7"}
USERS = {"root": "0:0", "another user": "1000:1000"}


def run(*command: str | Path) -> None:
    print("$", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True)


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def mounted(image: str) -> Iterator[tuple[str, Path]]:
    """A container of an image: its name and its file tree."""
    name = output("buildah", "from", "--pull-never", image)
    try:
        yield name, Path(output("buildah", "mount", name))
    finally:
        output("buildah", "rm", name)


def is_there(image: str) -> bool:
    return subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True).returncode == 0


# The base images' stand-ins


def make_debian() -> None:
    with mounted("scratch") as (name, root):
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root)
        shutil.copy(CERTIFICATES, root / CERTIFICATES[1:])
        environment = [f"PATH={PATH}", f"SSL_CERT_FILE={CERTIFICATES}", f"PIP_CERT={CERTIFICATES}"]
        run("buildah", "config", *(f"--env={variable}" for variable in environment), name)
        run("buildah", "commit", "--quiet", name, DEBIAN)


def python_prefix(version: str) -> str:
    """The folder of an installed Python that can be copied elsewhere."""
    installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    for command in filter(None, [shutil.which(f"python{version}"), *map(str, installed)]):
        result = subprocess.run([command, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True)
        if result.returncode == 0 and result.stdout.strip() != "/usr":
            return result.stdout.strip()
    sys.exit(f"Python {version} is needed in a folder of its own, such as pyenv's")


def add_python(name: str, root: Path, version: str) -> None:
    run("cp", "--archive", f"{python_prefix(version)}/.", root / "usr/local")
    run("buildah", "run", "--isolation=chroot", name, "ldconfig")
    pip = root / "usr/local/bin/pip"
    pip.unlink()
    pip.write_text(f'#!/bin/sh\nexec python{version} -m pip "$@"\n')
    pip.chmod(0o755)


def make_downloader() -> None:
    with mounted(DEBIAN) as (name, root):
        add_python(name, root, "3.13")
        run("buildah", "commit", "--quiet", name, DOWNLOADER)


def make_worker(comfyui: Path) -> None:
    uv = shutil.which("uv") or sys.exit("uv is needed: pip install uv")
    cache = Path(output(uv, "cache", "dir"))
    cache.mkdir(parents=True, exist_ok=True)
    with mounted(DEBIAN) as (name, root):
        add_python(name, root, "3.12")
        shutil.copy(uv, root / "usr/local/bin/uv")
        shutil.copytree(comfyui, root / "comfyui", ignore=shutil.ignore_patterns(".git", "__pycache__"))
        manager = root / "comfyui/custom_nodes/ComfyUI-Manager"
        manager.mkdir()
        (manager / "__init__.py").write_text('print("Manager")\nNODE_CLASS_MAPPINGS = {}\n')
        within = ["buildah", "run", "--isolation=chroot", f"--volume={cache}:/cache", "--env=UV_LINK_MODE=copy", name]
        run(*within, "uv", "venv", "--python=/usr/local/bin/python3.12", "/opt/venv")
        install = ["uv", "pip", "install", "--cache-dir=/cache", "--python=/opt/venv/bin/python", *TORCH]
        run(*within, *install, "--requirement=/comfyui/requirements.txt")
        environment = [f"PATH=/opt/venv/bin:{PATH}", "PIP_NO_INPUT=1", "PYTHONUNBUFFERED=1"]
        run("buildah", "config", *(f"--env={one}" for one in environment), "--workingdir=/", "--cmd=/start.sh", name)
        run("buildah", "commit", "--quiet", name, WORKER)


def make_bases() -> None:
    comfyui = Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy/ComfyUI-0.3.44")
    for image, make in ((DEBIAN, make_debian), (DOWNLOADER, make_downloader), (WORKER, lambda: make_worker(comfyui))):
        if not is_there(image):
            make()


# The build


def small_weights(folder: Path) -> None:
    """Writes the demo weights under the published names, and placeholders for the masker."""
    checkpoint.write(folder)
    (folder / "CatVTON/SCHP").mkdir()
    (folder / "CatVTON/DensePose").mkdir()
    for name in files.MASKER_NAMES:
        (folder / "CatVTON" / name).write_bytes(b"\x80\x04N.")  # the pickle of None


def hub_of(folder: Path) -> Hub:
    """Returns a stand-in for the hub with the files of `folder`."""
    names = {
        repository: [name for names in needed for name in names] for repository, needed in files.to_download().items()
    }
    return Hub(
        {
            repository: {
                name: path.read_bytes()
                for name in published
                if (path := folder / repository.split("/")[1] / name).is_file()
            }
            for repository, published in names.items()
        }
    )


def build(context: Path, hub: Hub, *options: str) -> subprocess.CompletedProcess:
    """Runs the Dockerfile. buildah's cache does not always look at build arguments, so other ones need --no-cache."""
    with tempfile.NamedTemporaryFile("w") as token:
        token.write(hub.token)
        token.flush()
        command = ["buildah", "build", "--isolation=chroot", "--pull-never", "--format=docker", "--layers"]
        command += ["--force-rm", f"--secret=id=hf_token,src={token.name}", f"--build-arg=HF_ENDPOINT={hub.url}"]
        command += options
        print("$", shlex.join([*command, str(context)]), flush=True)
        return subprocess.run([*command, context], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def forget_builds() -> None:
    """Removes what earlier runs built, so that nothing of it is taken for a layer of this one."""
    for image in filter(is_there, (TAG, BARE)):
        output("buildah", "rmi", image)
    output("buildah", "rmi", "--prune")


def verify_build(context: Path, hub: Hub) -> None:
    """Builds the image, then checks what later builds reuse and what they refuse."""
    started = time.monotonic()
    hub.private.add(files.BASE)  # opened by the secret
    built = build(context, hub, f"--tag={TAG}")
    assert built.returncode == 0, built.stdout[-6000:]
    print(f"built in {time.monotonic() - started:.0f} s")
    hub.requests.clear()
    workflow = context / "workflows/demo.json"
    workflow.write_text(workflow.read_text() + "\n")
    started = time.monotonic()
    again = build(context, hub, f"--tag={TAG}")
    assert again.returncode == 0 and not hub.requests and "pip install" not in run_again(again.stdout), again.stdout
    print(f"another workflow: built in {time.monotonic() - started:.0f} s, without downloads and installs")
    with mounted(TAG) as (_, root):
        assert hub.token not in output("buildah", "inspect", TAG)
        assert not (root / "run/secrets/hf_token").exists()
        lock = root / "comfyui/models/huggingface/tryon-weights.lock.json"
        (context / "models").mkdir()
        shutil.copy(lock, context / "models")
    requirements = context / "custom_nodes/comfyui_tryon/requirements.txt"
    kept = requirements.read_text()
    requirements.write_text(kept + "torch>=2.9\n")
    refused = build(context, hub)
    assert refused.returncode != 0 and "torch==2.8.0" in refused.stdout, refused.stdout[-2000:]
    requirements.write_text(kept)
    print("a package that wants another torch: refused")
    hub.repositories[files.VAE]["config.json"] += b" "
    refused = build(context, hub, "--no-cache", "--target=weights")
    assert refused.returncode != 0 and "the lock file has" in refused.stdout, refused.stdout
    print("other bytes than the lock file's: refused")


def run_again(log: str) -> str:
    """The steps of a build that did not come from its cache."""
    steps = log.split("\nSTEP ")
    return "\n".join(step.splitlines()[0] for step in steps if "--> Using cache" not in step)


# What was built, running


@dataclass
class Built:
    """An image's file tree and what it says of itself."""

    root: Path
    environment: dict[str, str]
    entry: list[str]
    health: list[str]


def read_image(root: Path, tag: str = TAG) -> Built:
    config = json.loads(output("buildah", "inspect", "--type", "image", tag))["Docker"]["config"]
    assert "8000/tcp" in config["ExposedPorts"] and config["Labels"]["org.opencontainers.image.title"]
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    assert environment["PORT"] == environment["PORT_HEALTH"] == "8000"
    test = config["Healthcheck"]["Test"]
    assert test[0] == "CMD" and not config.get("User")
    entry = [*config["Entrypoint"], *(config["Cmd"] or [])]
    return Built(root, environment | {"OMP_NUM_THREADS": "1"}, entry, test[1:])


def command(
    image: Built,
    user: str,
    read_only: bool,
    environment: dict[str, str],
    arguments: Sequence[str],
    volumes: dict[str, Path] = {},
) -> list:
    """What starts `arguments` as process 1 of a container of the image, with folders of this machine in it."""
    variables = image.environment | {"HOME": "/root" if user == USERS["root"] else "/"} | environment
    for place in volumes:
        (image.root / place[1:]).mkdir(parents=True, exist_ok=True)
    binds = "\n".join(f"mount --bind {shlex.quote(str(path))} {image.root}{place}" for place, path in volumes.items())
    inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), *arguments]
    where = shlex.quote(str(image.root))
    script = f"""
        mount --make-rprivate / && mount --bind {where} {where}
        {binds}
        {f"mount -o remount,bind,ro {where}" if read_only else ":"}
        mount -t proc proc {where}/proc && mount --rbind /dev {where}/dev && mount -t tmpfs -o mode=1777 tmp {where}/tmp
        exec chroot --userspec={user} {where} {shlex.join(inside)}
    """
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]


@contextlib.contextmanager
def container(
    image: Built, user: str, read_only: bool, environment: dict[str, str], *arguments: str
) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A started entry point; gives its process and its log's path."""
    log_path = Path(tempfile.gettempdir()) / f"image-{os.getpid()}.log"
    with open(log_path, "wb") as log:
        start = command(image, user, read_only, environment, [*image.entry, *arguments])
        process = subprocess.Popen(start, stdout=log, stderr=log)
    try:
        yield process, log_path
    finally:
        process.kill()
        process.wait()
        log_path.unlink()


def first_process(parent: subprocess.Popen) -> int:
    """The process that is number 1 inside."""
    return int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])


def wait_until_ready(url: str, process: subprocess.Popen, log_path: Path) -> float:
    started = time.monotonic()
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return time.monotonic() - started
        late = time.monotonic() - started > START_TIMEOUT_S
        assert process.poll() is None and not late, log_path.read_text()[-4000:]
        time.sleep(0.2)


def drawing(draw_mask: bool = False) -> bytes:
    image = Image.new("RGB", (192, 256), "black" if draw_mask else "lightgrey")
    ImageDraw.Draw(image).rectangle((60, 60, 130, 160), fill="white" if draw_mask else "darkred")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def try_on(url: str, path: str = "/api/v1/tryon", **fields: str) -> httpx.Response:
    files = {"person_image": drawing(), "garment_image": drawing(), "mask_image": drawing(draw_mask=True)}
    parts = {name: (f"{name}.png", data) for name, data in files.items()}
    return httpx.post(url + path, data={**FIELDS, **fields}, files=parts, headers={"Accept": "image/png"}, timeout=120)


def verify(image: Built, port: int, workflow: str, user: str, read_only: bool) -> None:
    url = f"http://127.0.0.1:{port}"
    environment = {"TRYON_WORKFLOW": workflow, "PORT": str(port), "PORT_HEALTH": str(port)}
    with container(image, USERS[user], read_only, environment) as (process, log_path):
        seconds = wait_until_ready(url, process, log_path)
        assert httpx.get(f"{url}/ping").json() == {"status": "healthy"}
        assert httpx.get(url).status_code == httpx.post(f"{url}/prompt").status_code == 404
        first, second = try_on(url), try_on(url)
        assert first.status_code == 200 and first.content == second.content, first.text
        log = log_path.read_text()
        assert "Try-on API on the ComfyUI " in log and "Manager" not in log, log
        assert log.count(": /comfyui/models/huggingface/CatVTON\n") == 1, log
        subprocess.run(command(image, USERS[user], read_only, environment, image.health), check=True)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            last = pool.submit(try_on, url, num_inference_steps="60")
            time.sleep(1)
            os.kill(first_process(process), signal.SIGTERM)
            assert last.result().status_code == 200, last.result().text
        code = process.wait(60)
        assert code == 0, f"exit {code}\n{log_path.read_text()[-4000:]}"
    where = "read-only" if read_only else "writable"
    print(f"{user}, {where} root: ready in {seconds:.1f} s, images, drained, exit 0", flush=True)


def verify_sagemaker(image: Built, port: int, workflow: str) -> None:
    environment = {"TRYON_WORKFLOW": workflow, "SAGEMAKER_BIND_TO_PORT": str(port)}
    with container(image, USERS["root"], False, environment, "serve") as (process, log_path):
        wait_until_ready(f"http://127.0.0.1:{port}", process, log_path)
        assert try_on(f"http://127.0.0.1:{port}", "/invocations").status_code == 200
    print("serve: /ping and /invocations", flush=True)


def verify_places(weights: Path, scratch: Path) -> None:
    """An image without weights lists the missing files, and finds them in every place that it searches."""
    cache = scratch / "cache"
    for repository in files.to_download():
        snapshot = cache / f"hub/models--{repository.replace('/', '--')}/snapshots/{'a' * 40}"
        shutil.copytree(weights / repository.split("/")[1], snapshot)
    places: tuple[tuple[str, str, Path, dict[str, str]], ...] = (
        ("a network volume", "/runpod-volume/models", weights, {}),
        ("RunPod's cached models", "/runpod-volume/huggingface-cache", cache, {}),
        ("a folder", "/weights", weights, {"TRYON_MODELS_DIR": "/weights"}),
        ("the hub's cache", "/cache", cache, {"HF_HOME": "/cache"}),
        ("Hugging Face's mount", "/repository", weights, {"TRYON_MODELS_DIR": "/repository"}),
    )
    with mounted(BARE) as (_, root):
        image = read_image(root, BARE)
        start = command(image, USERS["root"], True, {}, image.entry)
        result = subprocess.run(start, capture_output=True, text=True)
        assert result.returncode == 1 and result.stderr.endswith("Fetch them with:  ./start.sh --download\n"), result
        print("without weights: exit 1")
        for name, place, path, environment in places:
            table = command(image, USERS["another user"], True, environment, [*image.entry, "--check"], {place: path})
            result = subprocess.run(table, capture_output=True, text=True)
            rows = [line for line in result.stdout.splitlines() if " weights " in line]
            assert result.returncode == 0 and rows and all(f" {place}/" in row for row in rows), result
            print(f"weights from {name}: found", flush=True)
        next(cache.rglob("attention/*.safetensors")).chmod(0o600)
        volume = {"/runpod-volume/huggingface-cache": cache}
        start = command(image, USERS["another user"], True, {}, image.entry, volume)
        result = subprocess.run(start, capture_output=True, text=True)
        assert result.returncode == 1 and "  chmod a+r /runpod-volume/huggingface-cache/" in result.stderr, result
        print("a file that the user may not read: exit 1")


def verify_check(image: Built) -> None:
    table = command(image, USERS["another user"], True, {}, [*image.entry, "--check"])
    result = subprocess.run(table, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    start = command(image, USERS["root"], True, {"TRYON_WORKFLOWS_DIR": "/nowhere"}, image.entry)
    result = subprocess.run(start, capture_output=True, text=True)
    assert result.returncode == 1 and "TRYON_WORKFLOW" in result.stderr, result.stderr
    print("a start with bad settings: exit 1", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="with the masker's files; runs the workflow catvton")
    parser.add_argument("--port", type=int, default=8391)
    options = parser.parse_args()
    make_bases()
    forget_builds()
    with tempfile.TemporaryDirectory() as scratch:
        weights = options.weights
        if not weights:
            weights = Path(scratch) / "weights"
            small_weights(weights)
            run("chmod", "--recursive", "a+rX", scratch)
        context = Path(scratch) / "context"
        context.mkdir()
        for name in ("Dockerfile", ".dockerignore", "start.sh", "extra_model_paths.yaml", "LICENSE"):
            shutil.copy(ROOT / name, context)
        for name in ("custom_nodes", "workflows"):
            shutil.copytree(ROOT / name, context / name)
        with serving(hub_of(weights)) as hub:
            verify_build(context, hub)
            bare = build(context, hub, "--no-cache", "--build-arg=WEIGHTS=0", f"--tag={BARE}")
            assert bare.returncode == 0, bare.stdout[-6000:]
        verify_places(weights, Path(scratch))
    workflow = "catvton" if options.weights else "catvton_mask"
    with mounted(TAG) as (_, root):
        image = read_image(root)
        verify_check(image)
        for user in USERS:
            for read_only in (False, True):
                verify(image, options.port, workflow, user, read_only)
        verify_sagemaker(image, options.port, workflow)


if __name__ == "__main__":
    main()
