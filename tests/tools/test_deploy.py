"""The files that ship the server agree with it and with each other. tests/image.py runs what they build."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from comfyui_tryon import metrics, server
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.engine import current
from comfyui_tryon.launch import packages
from comfyui_tryon.settings import Settings, SettingsError
from comfyui_tryon.version import VERSION
from support.servers import DEMO_MODELS, EMBEDDED, ROOT, Server, free_port, wait_until_ready, without_settings

DRAIN_S = Settings.model_fields["drain_s"].default
HEALTH_PATHS = {route.path for route in server.Server(Settings(), current()).routes() if route.health}
SETTINGS = {str(field.validation_alias) for field in Settings.model_fields.values()}


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, rest in (line.split(maxsplit=1) for line in lines if line.strip())]


def documents(name: str) -> list[dict]:
    return [document for document in yaml.safe_load_all((ROOT / name).read_text()) if document]


def container(deployment: dict) -> dict:
    return deployment["spec"]["template"]["spec"]["containers"][0]


WORKER = next(one for one in documents("deploy/kubernetes/workers.yaml") if one["kind"] == "Deployment")
BALANCER = next(one for one in documents("deploy/kubernetes/balancer.yaml") if one["kind"] == "Deployment")
COMPOSE = documents("docker-compose.yml")[0]["services"]
KUSTOMIZATION = documents("deploy/kustomization.yaml")[0]
MANIFESTS = [f"deploy/kubernetes/{name}.yaml" for name in ("namespace", "workers", "balancer", "network")]
WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/workflows").iterdir())


def copied() -> list[str]:
    sources = []
    for instruction, rest in dockerfile():
        words = [word for word in rest.split() if not word.startswith("--")]
        if instruction == "COPY" and "--from" not in rest:
            sources += words[:-1]
    return sources


@pytest.mark.parametrize("source", copied())
def test_what_the_dockerfile_copies_is_in_the_build_context(source):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    path = source.replace("[n]", "n").rstrip("*")
    assert any(path == name or path.startswith(f"{name}/") for name in kept), f".dockerignore leaves {path} out"
    if not any(sign in source for sign in "[*"):
        assert (ROOT / source).exists()


def test_the_image_starts_as_platforms_expect():
    instructions = dockerfile()
    assert instructions[0] == ("ARG", "BASE=runpod/worker-comfyui:5.4.0-base")
    assert [rest for name, rest in instructions if name == "FROM"][-1] == "$BASE"
    assert ("ENTRYPOINT", '["/tryon/start.sh"]') in instructions
    assert ("ENV", "PORT=8000 PORT_HEALTH=8000") in instructions
    assert ("EXPOSE", "8000") in instructions
    assert any(name == "HEALTHCHECK" and "/readyz" in rest for name, rest in instructions)


def test_a_new_workflow_rebuilds_nothing_heavy():
    instructions = dockerfile()
    at = next(index for index, (name, rest) in enumerate(instructions) if name == "COPY" and "workflows" in rest)
    assert not {name for name, _ in instructions[at + 1 :]} & {"RUN", "COPY", "ADD"}


def test_the_image_holds_no_secret():
    set_there = [rest for name, rest in dockerfile() if name in ("ARG", "ENV")]
    assert not [rest for rest in set_there if re.search("token|key|password|secret", rest, re.IGNORECASE)]


def test_the_download_stage_needs_huggingface_hub_only(tmp_path):
    package = tmp_path / "comfyui_tryon/weights"
    package.mkdir(parents=True)
    for source in copied():
        if source.endswith(".py"):
            shutil.copy(ROOT / source, package)
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'pydantic', 'pydantic_settings')));"
        "sys.argv = ['download', '--to', 'models'];"
        "runpy.run_module('comfyui_tryon.weights.download', run_name='__main__')"
    )
    variables = os.environ | {"PYTHONPATH": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert "http://127.0.0.1:9 cannot be reached" in result.stderr, result.stderr


def test_probes_ask_paths_that_exist():
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(WORKER)[name]["httpGet"]["path"] in HEALTH_PATHS
    asked = re.findall(r"option httpchk GET (\S+)", (ROOT / "deploy/haproxy.cfg").read_text())
    assert asked and set(asked) <= HEALTH_PATHS


@pytest.mark.parametrize(("further", "complete"), [("", True), ("# a comment\n\n", True), ("not-there>=1\n", False)])
def test_start_finds_out_whether_the_packages_are_installed(tmp_path, further, complete):
    required = (ROOT / "custom_nodes/comfyui_tryon/requirements.txt").read_text()
    (tmp_path / "requirements.txt").write_text(required + further)
    assert packages.has_packages(sys.executable, tmp_path / "requirements.txt") == complete


def test_liveness_does_not_ask_for_readiness():
    """Else a worker that starts or drains would be killed."""
    assert container(WORKER)["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_a_worker_gets_the_time_to_drain():
    spec = WORKER["spec"]["template"]["spec"]
    pause = int(container(WORKER)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > DRAIN_S + pause
    assert int(COMPOSE["worker"]["stop_grace_period"].removesuffix("s")) > DRAIN_S


def test_the_environment_that_is_set_is_read():
    for names in ([entry["name"] for entry in container(WORKER)["env"]], COMPOSE["worker"]["environment"]):
        assert set(names) <= SETTINGS | {"HOME"}
    used = set(re.findall(r"\$\{(\w+)\}", (ROOT / "deploy/haproxy.cfg").read_text()))
    assert used <= {entry["name"] for entry in container(BALANCER)["env"]}
    assert used == set(COMPOSE["balancer"]["environment"])


def test_autoscaling_asks_for_a_metric_that_exists():
    folder = "deploy/kubernetes/autoscaling"
    name = documents(f"{folder}/hpa/hpa.yaml")[0]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f"\n{name} " in metrics.text().decode()
    assert documents(f"{folder}/hpa/prometheus-adapter.yaml")[0]["rules"]["custom"][0]["name"]["as"] == name
    scaled = documents(f"{folder}/keda/keda.yaml")[0]["spec"]
    query = scaled["triggers"][0]["metadata"]["query"]
    assert name in query and f'namespace="{KUSTOMIZATION["namespace"]}"' in query
    for target in (scaled["scaleTargetRef"], documents(f"{folder}/hpa/hpa.yaml")[0]["spec"]["scaleTargetRef"]):
        assert target["name"] == WORKER["metadata"]["name"]


def test_the_kustomization_names_what_is_there():
    folder = ROOT / "deploy"
    listed = {folder / path for path in KUSTOMIZATION["resources"]}
    offered = set(re.findall(r"^#   - (\S+)$", (folder / "kustomization.yaml").read_text(), re.MULTILINE))
    assert offered == {"kubernetes/autoscaling/hpa", "kubernetes/autoscaling/keda"}
    for component in offered:
        content = yaml.safe_load((folder / component / "kustomization.yaml").read_text())
        assert content["kind"] == "Component"
        listed |= {folder / component / path for path in content["resources"]}
    others = {folder / "kubernetes/monitoring.yaml", folder / "kubernetes/autoscaling/hpa/prometheus-adapter.yaml"}
    manifests = {path for path in folder.glob("kubernetes/**/*.yaml") if path.name != "kustomization.yaml"}
    assert listed == manifests - others and all(path.is_file() for path in listed)


def test_workers_go_to_nodes_with_gpus_and_get_no_variables_of_services():
    pod = WORKER["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def test_network_policies_select_pods_and_ports_that_exist():
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in documents("deploy/kubernetes/network.yaml")}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in (WORKER, BALANCER)]
    assert [policy["podSelector"]["matchLabels"] for policy in policies.values()] == labels
    worker, balancer = policies.values()
    assert worker["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == labels[1] and worker["egress"] == []
    assert balancer["egress"][0]["to"][0]["podSelector"]["matchLabels"] == labels[0]
    for rule in (worker["ingress"][0], balancer["ingress"][0], balancer["egress"][0]):
        assert [port["port"] for port in rule["ports"]] == [container(WORKER)["ports"][0]["containerPort"]]


def test_compose_gives_each_gpu_a_worker_that_the_balancer_finds():
    first, second = COMPOSE["worker"], COMPOSE["worker-1"]
    differing = {name for name in second if second[name] != first.get(name)}
    assert differing == {"profiles", "networks", "deploy"}
    assert COMPOSE["balancer"]["environment"]["WORKERS"].split(":")[0] in second["networks"]["default"]["aliases"]
    assert second["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]


def test_a_tag_publishes_the_image_with_what_is_in_it_and_where_it_is_from():
    steps = yaml.safe_load((ROOT / ".github/workflows/image.yml").read_text())["jobs"]["publish"]["steps"]
    build = next(step["with"] for step in steps if step.get("uses", "").startswith("docker/build-push-action"))
    assert build["sbom"] is True and build["provenance"] == "mode=max" and build["build-args"] == "WEIGHTS=0"


@pytest.mark.parametrize("workflow", ["clients", "image", "publish", "release"])
def test_what_a_tag_publishes_has_the_tags_version(workflow):
    text = (ROOT / f".github/workflows/{workflow}.yml").read_text()
    trigger = yaml.safe_load(text)[True]["push"]["tags"]  # YAML 1.1 reads `on` as true
    assert trigger == ["v[0-9]+.[0-9]+.[0-9]+"] and "${GITHUB_REF_NAME#v}" in text


@pytest.mark.parametrize("workflow", ["clients", "image", "publish", "release"])
def test_a_tag_that_is_not_the_version_publishes_nothing(tmp_path, workflow):
    for name in ("custom_nodes/comfyui_tryon/version.py", "clients/python/src/tryon_client/_types.py",
                 "clients/typescript/package.json", "pyproject.toml", "CHANGELOG.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    jobs = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())["jobs"].values()
    steps = [step for job in jobs for step in job["steps"] if step.get("name", "").startswith("The tag is the version")]
    (step,) = steps

    def passes(tag: str) -> bool:
        command = ["bash", "-e", "-c", step["run"]]  # as GitHub's runners do
        return not subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"GITHUB_REF_NAME": tag}, capture_output=True
        ).returncode

    assert passes(f"v{VERSION}") and not passes(f"v{VERSION}1")


def test_runpods_hub_file():
    hub = json.loads((ROOT / ".runpod/hub.json").read_text())
    assert (hub["type"], hub["config"]["endpointType"]) == ("serverless", "LB")
    image = dict(pair.split("=") for pair in next(rest for name, rest in dockerfile() if name == "ENV").split())
    given = {entry["key"]: entry.get("value") for entry in hub["config"]["env"]}
    assert set(given) <= SETTINGS and image.items() <= given.items()
    defaults = {entry["key"]: entry["input"]["default"] for entry in hub["config"]["env"] if "input" in entry}
    fields = {name.lower().removeprefix("tryon_"): value for name, value in defaults.items() if value != ""}
    assert fields == {name: Settings.model_fields[name].default for name in fields}


@pytest.mark.parametrize(
    "command",
    [
        ["shellcheck", "start.sh", ".ci/run"],
        ["hadolint", "Dockerfile"],
        ["kubernetes-validate", "--strict", *MANIFESTS, "deploy/kubernetes/autoscaling/hpa/hpa.yaml"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
    ],
    ids=["shellcheck", "hadolint", "kubernetes", "compose", "github"],
)
def test_lint(command):
    found = shutil.which(command[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"NO {command[0].upper()} HERE: pip install -r tests/requirements.txt")
    result = subprocess.run([found, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_other_hosts_paths_are_off_unless_asked_for():
    paths = {route.path for route in server.Server(Settings(), current()).routes()}
    assert "/ping" in paths and not [path for path in paths if "invocations" in path or "predict" in path]


@pytest.mark.parametrize("health", ["/health", "/ping", "/alive"])
def test_vertex_may_name_a_health_path_that_is_there(health):
    settings = Settings(AIP_HEALTH_ROUTE=health, AIP_PREDICT_ROUTE="/predict")
    routes = [(route.method, route.path) for route in server.Server(settings, current()).routes()]
    assert routes.count(("GET", health)) == 1 and ("POST", "/predict") in routes


@pytest.mark.parametrize("name, path", [("AIP_PREDICT_ROUTE", "/api/v1/tryon"), ("AIP_HEALTH_ROUTE", "/metrics")])
def test_vertex_may_not_name_a_path_that_is_something_else(name, path):
    with pytest.raises(SettingsError, match=f"{name}.*{path}"):
        server.Server(Settings(**{name: path}), current()).routes()
    for other in ("predict", "/{x}", "/a b", "/a?b"):
        with pytest.raises(ValueError, match=name):
            Settings(**{name: other})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Iterator[Server]:
    """A server as SageMaker starts it, that also has Vertex AI's routes."""
    checkpoint.write(DEMO_MODELS)
    port, log_path = free_port(), tmp_path_factory.mktemp("elsewhere") / "log.txt"
    variables = without_settings() | {
        "COMFYUI_DIR": "",
        "OMP_NUM_THREADS": "1",
        "TRYON_MODELS_DIR": str(DEMO_MODELS),
        "TRYON_WORKFLOW": "demo",
        "TRYON_API_KEY": "secret",
        "TRYON_WARMUP": "0",
        "PORT": "8000",
        "PORT_HEALTH": "8000",
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/health",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1:predict",
    }
    with open(log_path, "wb") as log:
        process = subprocess.Popen([str(ROOT / "start.sh"), "serve"], env=variables, stdout=log, stderr=log)
    server = Server(EMBEDDED, f"http://127.0.0.1:{port}", process, log_path)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.kill()
        process.wait()


def test_sagemaker(elsewhere, fields):
    assert httpx.get(f"{elsewhere.url}/ping").status_code == 200
    reply = httpx.post(f"{elsewhere.url}/invocations", json=fields, headers={"X-API-Key": "secret"}, timeout=60)
    assert reply.status_code == 200 and reply.json()["seed"] == fields["seed"]
    assert httpx.post(f"{elsewhere.url}/invocations", json=fields).status_code == 401


def test_runpods_tests_pass(elsewhere):
    for test in json.loads((ROOT / ".runpod/tests.json").read_text())["tests"]:
        reply = httpx.post(
            f"{elsewhere.url}/api/v1/tryon", json=test["input"], headers={"X-API-Key": "secret"}, timeout=60
        )
        assert reply.status_code == 200, reply.text


def test_vertex(elsewhere, fields):
    assert httpx.get(f"{elsewhere.url}/v1/endpoints/1/health").json() == {"status": "healthy"}
    images = {name: fields.pop(name) for name in ("person_image", "garment_image")}
    body = {"instances": [{**images, "seed": 1}, {**images, "seed": 2}], "parameters": {**fields, "seed": 9}}
    headers = {"Authorization": "Bearer secret"}
    with httpx.Client(base_url=elsewhere.url, headers=headers, timeout=60) as client:
        reply = client.post("/v1/endpoints/1:predict", json=body)
        assert reply.status_code == 200, reply.text
        alone = client.post("/api/v1/tryon", json={**images, **fields, "seed": 1}).json()
    predictions = reply.json()["predictions"]
    assert [prediction["seed"] for prediction in predictions] == [1, 2]
    assert alone["output"] == predictions[0]["output"]


@pytest.mark.parametrize(
    "body", [[], {}, {"instances": []}, {"instances": "x"}, {"instances": [1]}, {"instances": [{}]}]
)
def test_vertex_with_bad_instances(elsewhere, body):
    reply = httpx.post(
        f"{elsewhere.url}/v1/endpoints/1:predict", content=json.dumps(body), headers={"X-API-Key": "secret"}
    )
    assert reply.status_code in (400, 422) and reply.json()["error"]["message"]


def test_ignored_files_are_patterns_that_match():
    """A whitelist entry that names nothing would hide that a file was moved."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    present = {str(path.relative_to(ROOT)) for path in ROOT.iterdir()}
    assert [name for name in kept if not fnmatch.filter(present, name)] == ["models/tryon-weights.lock.json"]
