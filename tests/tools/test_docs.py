"""What the documentation links to, names and promises is there."""

import re
import subprocess
from pathlib import Path

import pytest
from comfyui_tryon.launch.modes import MODES
from comfyui_tryon.settings import Settings
from comfyui_tryon.version import VERSION
from support.servers import ROOT

PAGES = sorted(
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()
)  # fmt: skip
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Paths of this repository in code spans and commands, written from its root.
TOPS = "custom_nodes|docs|deploy|tests|benchmarks|clients|examples|training|workflows|locales|example_workflows"
PATH = re.compile(rf"(?<![\w./~-])((?:{TOPS})/[\w./*-]+)")
MADE_LATER = {"workflows/NAME.json", "training/output"}
README = (ROOT / "README.md").read_text()


def text_of(page: Path) -> str:
    return (ROOT / page).read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    dead = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=str)
def test_paths_in_text_exist(page):
    # some pages say that theirs are relative to the page or to the pack
    folders = (ROOT, (ROOT / page).parent, ROOT / "custom_nodes/comfyui_tryon")
    named = {path.rstrip("./") for path in PATH.findall(text_of(page))}
    missing = [path for path in named if not any(any(folder.glob(path)) for folder in folders)]
    assert set(missing) <= MADE_LATER


def test_the_readme_is_short_and_has_every_setting_and_every_page():
    assert len(README.splitlines()) <= 150
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"TRYON_{name.upper()}")
        # set by start.sh, and by Vertex AI
        assert variable in ("TRYON_SAGEMAKER", "AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE") or f"`{variable}`" in README
    for page in PAGES:
        if page.parent == Path("docs"):
            assert f"({page})" in README, page


def test_commands_use_modes_that_exist():
    used = {mode for page in PAGES for mode in re.findall(r"(?:start\.sh|comfyui_tryon) --(\w+)", text_of(page))}
    assert used <= {*MODES, "serve", "help"}


def test_python_modules_in_commands_exist():
    used = {name for page in PAGES for name in re.findall(r"python -m (comfyui_tryon[\w.]*)", text_of(page))}
    for name in used:
        path = ROOT / "custom_nodes" / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_the_changelog_has_the_version():
    assert re.search(rf"^## \[{re.escape(VERSION)}\] - \d{{4}}-\d\d-\d\d$", text_of(Path("CHANGELOG.md")), re.MULTILINE)
