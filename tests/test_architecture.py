"""Packages and folders import only from lower ones, files are short, public names documented."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import interventions
import jaxasr
from jaxasr.sites import LAYERED, SITES

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxasr", "interventions", "experiments")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
# Folders of each package, lowest first. A file imports from its own folder and from lower ones.
FOLDERS = {
    "interventions": (
        "storage",
        "stats",
        "figures",
        "edits",
        "lenses",
        "patching",
        "effects",
        "generation",
        "probes",
        "planning",
    ),
    "experiments": ("data", "store", "pages", "analyses", "studies", "commands", "label_probes"),
}


def imported(file: Path) -> set[str]:
    """Returns the modules that a file imports, also within functions."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_packages_import_only_lower_packages(file):
    package = file.relative_to(ROOT).parts[0]
    higher = PACKAGES[PACKAGES.index(package) + 1 :]
    assert not {module for module in imported(file) if module.split(".")[0] in (*higher, "tests")}


def test_every_imported_package_is_declared():
    """Otherwise an update of the package that brings it along could remove it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.split(r"[\[<>=~]", line)[0].lower().replace("-", "_") for line in requirements}
    distributions = {"sklearn": "scikit_learn", "PIL": "pillow", "piper": "piper_tts"}
    only_measured = {"torch", "whisper", "whisper_timestamped", "nnsight"}  # in experiments.bench
    known = {*PACKAGES, *sys.stdlib_module_names, *only_measured, "make_demo"}
    used = {module.split(".")[0] for file in FILES for module in imported(file)} - known
    assert {distributions.get(module, module) for module in used} <= declared


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_import_only_from_those_below(package):
    order, root = FOLDERS[package], ROOT / package
    unlisted = {file.parent.name for file in root.glob("*/*.py")} - {*order, "bench", "assets"}
    assert not unlisted
    for folder in order:
        higher = {f"{package}.{name}" for name in order[order.index(folder) + 1 :]}
        for file in sorted((root / folder).rglob("*.py")):
            modules = {".".join(module.split(".")[:2]) for module in imported(file)}
            assert not modules & higher, file


def test_no_study_imports_another():
    studies = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in (ROOT / "experiments/studies").glob("[a-z][0-9]*.py")
    }
    assert studies
    for module, file in studies.items():
        assert not imported(file) & (studies.keys() - {module}), file


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize("module", [jaxasr, interventions], ids=lambda module: module.__name__)
def test_every_public_name_is_documented(module):
    public = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and not inspect.ismodule(value)
    }
    described = {
        key: (value.__doc__ or "") if callable(value) else "a value"
        for key, value in public.items()
    }
    documented = {
        key for key, text in described.items() if text and not text.startswith(f"{key}(")
    }  # Python gives a dataclass without a docstring its signature as docstring
    assert public.keys() == documented
    assert len(public) > 3


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_module_has_a_docstring(file):
    text = file.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_the_documented_table_of_sites_is_the_vocabulary():
    table = r"^\| `((?:encoder|decoder)\.[a-z0-9_.]+)` \| `\[([A-Za-z, ]+)\]` \|"
    rows = re.findall(table, (ROOT / "docs/sites.md").read_text(), re.MULTILINE)
    assert dict(rows) == {
        site: ", ".join((*(["L"] if site in LAYERED else []), *axes))
        for site, axes in SITES.items()
    }
    assert len(rows) == len(SITES)


def test_the_command_line_and_its_help_need_no_model():
    """Help is fast because commands import JAX only when they run."""
    heavy = {"jax", "jaxasr", "interventions", "flax", "transformers", "librosa"}
    for file in [ROOT / "experiments/cli.py", *(ROOT / "experiments/commands").glob("*.py")]:
        top = [
            node
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {
            alias.name.split(".")[0]
            for node in top
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        names |= {
            str(node.module).split(".")[0] for node in top if isinstance(node, ast.ImportFrom)
        }
        assert not names & heavy, file


def test_the_demo_imports_no_slow_module():
    """Each of these modules takes half a second or more, and a warm start at most ten seconds."""
    demo = (
        "import sys, experiments.analyses.lens; from jaxasr import audio, text; "
        "audio.mel_filters(80); text.normalise('One.')"
    )
    slow = [
        "scipy.stats",
        "scipy.signal",
        "sklearn",
        "transformers",
        "librosa",
        "torch",
        "matplotlib",
    ]
    modules = subprocess.run(
        [sys.executable, "-c", f"{demo}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not set(slow) & set(modules.stdout.split())
