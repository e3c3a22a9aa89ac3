"""Runs the image without a container engine: its file tree as a root, in namespaces of its own.

    python tests/image.py ROOT [PORT]

ROOT is the tree of an image built from the Dockerfile (`buildah mount`, or `docker export | tar -x`), with weights;
small stand-ins will do. Needs root and Linux. As root, as another user, and on a read-only root with a writable /tmp,
it is started as `docker run` would start it, asked for pictures and stopped while it makes one.
"""

import concurrent.futures
import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from hosts import ROOT as PROJECT
from PIL import Image, ImageDraw

START_TIMEOUT_S = 300
ENVIRONMENT = {
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/root",
    "OMP_NUM_THREADS": "1",
    "TRYON_WORKFLOW": "catvton_mask",
}
FIELDS = {"num_inference_steps": "2", "width": "128", "height": "192", "seed": "7"}
USERS = {"root": "0:0", "another user": "1000:1000"}


def command(root: Path, user: str, read_only: bool, environment: dict[str, str], arguments: Sequence[str]) -> list[str]:
    """What starts `arguments` as process 1 of a container with `root` as its file system."""
    inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items()), *arguments]
    where = shlex.quote(str(root))
    script = f"""
        mount --make-rprivate / && mount --bind {where} {where}
        {f"mount -o remount,bind,ro {where}" if read_only else ":"}
        mount -t proc proc {where}/proc && mount --rbind /dev {where}/dev && mount -t tmpfs -o mode=1777 tmp {where}/tmp
        exec chroot --userspec={user} {where} {shlex.join(inside)}
    """
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]


@contextlib.contextmanager
def container(root: Path, user: str, read_only: bool, environment: dict[str, str], *arguments: str) -> Iterator:
    """A started entry point; gives its process and its log's path."""
    log_path = Path(os.environ.get("TMPDIR", "/tmp")) / f"image-{os.getpid()}.log"
    with open(log_path, "wb") as log:
        entry = ["/tryon/start.sh", *arguments]
        process = subprocess.Popen(command(root, user, read_only, environment, entry), stdout=log, stderr=log)
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


def picture(draw_mask: bool = False) -> bytes:
    image = Image.new("RGB", (192, 256), "black" if draw_mask else "lightgrey")
    ImageDraw.Draw(image).rectangle((60, 60, 130, 160), fill="white" if draw_mask else "darkred")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def try_on(url: str, path: str = "/api/v1/tryon", **fields: str) -> httpx.Response:
    files = {"person_image": picture(), "garment_image": picture(), "mask_image": picture(draw_mask=True)}
    parts = {name: (f"{name}.png", data) for name, data in files.items()}
    return httpx.post(url + path, data={**FIELDS, **fields}, files=parts, headers={"Accept": "image/png"}, timeout=120)


def verify(root: Path, port: int, user: str, read_only: bool) -> None:
    url = f"http://127.0.0.1:{port}"
    environment = {**ENVIRONMENT, "PORT": str(port), "PORT_HEALTH": str(port)}
    with container(root, USERS[user], read_only, environment) as (process, log_path):
        seconds = wait_until_ready(url, process, log_path)
        assert httpx.get(f"{url}/ping").json() == {"status": "healthy"}
        assert httpx.get(url).status_code == httpx.post(f"{url}/prompt").status_code == 404
        first, second = try_on(url), try_on(url)
        assert first.status_code == 200 and first.content == second.content, first.text
        log = log_path.read_text()
        assert "Try-on API on the ComfyUI " in log and "Manager" not in log, log
        check = ["/bin/bash", "-c", f"wget --quiet --output-document=/dev/null http://127.0.0.1:{port}/readyz"]
        subprocess.run(command(root, USERS[user], read_only, environment, check), check=True)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            last = pool.submit(try_on, url, num_inference_steps="60")
            time.sleep(1)
            os.kill(first_process(process), signal.SIGTERM)
            assert last.result().status_code == 200, last.result().text
        code = process.wait(60)
        assert code == 0, f"exit {code}\n{log_path.read_text()[-4000:]}"
    print(
        f"{user}, {'read-only' if read_only else 'writable'} root: ready in {seconds:.1f} s, pictures, drained, exit 0"
    )


def verify_sagemaker(root: Path, port: int) -> None:
    environment = {**ENVIRONMENT, "PORT": "8000", "PORT_HEALTH": "8000", "SAGEMAKER_BIND_TO_PORT": str(port)}
    with container(root, USERS["root"], False, environment, "serve") as (process, log_path):
        wait_until_ready(f"http://127.0.0.1:{port}", process, log_path)
        assert try_on(f"http://127.0.0.1:{port}", "/invocations").status_code == 200
    print("serve: /ping and /invocations")


def verify_check(root: Path) -> None:
    table = command(root, USERS["another user"], True, ENVIRONMENT, ["/tryon/start.sh", "--check"])
    result = subprocess.run(table, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    missing = {**ENVIRONMENT, "TRYON_WORKFLOWS_DIR": "/nowhere"}
    started = subprocess.run(
        command(root, USERS["root"], True, missing, ["/tryon/start.sh"]), capture_output=True, text=True
    )
    assert started.returncode == 1 and "TRYON_WORKFLOW" in started.stderr, started.stderr
    print("bad settings: exit 1")


def main() -> None:
    root, port = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 8391
    assert (root / "tryon/start.sh").is_file(), f"{root} is no tree of an image built from {PROJECT}/Dockerfile"
    verify_check(root)
    for user in USERS:
        for read_only in (False, True):
            verify(root, port, user, read_only)
    verify_sagemaker(root, port)


if __name__ == "__main__":
    main()
