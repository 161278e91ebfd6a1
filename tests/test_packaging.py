"""What is in the tree is in the wheel, and the wheel works where the tree is not."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("qrp_store", "cli", "migrations", "pyproject.toml", "PACKAGE.md", "LICENSE")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return next((tree / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True)


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "qrp_store" else ("qrp_store", *parts))


def test_the_package_list_is_the_tree(project: dict[str, Any]) -> None:
    found = {
        package_of(path.parent) for top in ("qrp_store", "cli", "migrations") for path in (ROOT / top).rglob("*.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_the_two_folders_at_the_top_are_linked_into_the_package() -> None:
    for name in ("cli", "migrations"):
        assert (ROOT / "qrp_store" / name).is_symlink()
        assert (ROOT / "qrp_store" / name).resolve() == ROOT / name


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which this tree is installed with `pip install -e`."""
    folder = tmp_path_factory.mktemp("editable")
    build = f"from setuptools.build_meta import build_editable; build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(site)
    (site / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin" / "python"


SCRIPT = """\
import qrp_store
from qrp_store.evaluate import evaluate

with qrp_store.open("qrp-data") as store:
    reveal_type(store)
    report = evaluate(store, dataset="photos", backbones="r50", k=[6, "auto"], seeds=range(3))
    reveal_type(report.results[0].nmi)
    evaluate(store, dataset="photos", seed=1)
    evaluate(store, dataset="photos", protocol="exact")
"""


def test_a_type_checker_reads_an_editable_install(editable: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", str(editable)]
    done = subprocess.run([*mypy, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    shown = [re.sub(r"^script.py:(\d+): \w+: ", r"\1 ", line) for line in done.stdout.splitlines()]
    assert '5 Revealed type is "qrp_store.store.Store"' in shown
    assert '7 Revealed type is "float | None"' in shown
    assert any(line.startswith('8 Unexpected keyword argument "seed" for "evaluate"') for line in shown)
    assert any(line.startswith('9 Argument "protocol" to "evaluate" has incompatible type') for line in shown)
    assert not [line for line in shown if not line.startswith(("5 ", "7 ", "8 ", "9 ", "qrp_store", "/"))]


def test_every_package_folder_is_a_package() -> None:
    for top in ("qrp_store", "cli", "migrations"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ("qrp_store", "cli", "migrations"):
        for path in (ROOT / top).rglob("*.py"):
            assert f"{package_of(path.parent).replace('.', '/')}/{path.name}" in names
    assert "qrp_store/py.typed" in names
    assert not {name for name in names if name.split("/")[0] in ("cli", "migrations", "tests")}


def test_the_description_links_to_nothing_that_is_not_in_the_package(wheel: Path, project: dict[str, Any]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    text = str(about.get_payload())
    assert "quantized reverse probing" in text
    assert [link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https://")] == []
    assert about.get_all("Project-URL") == ["Method, https://arxiv.org/abs/2209.03268"]
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(
        about.get_all("Classifier")
    )
    named = set(re.findall(r"`([a-z-]+)`", text[text.index("Further extras") : text.index("COMMAND")])) - {
        "qrp-store demo"
    }
    assert named <= set(project["project"]["optional-dependencies"])


def test_every_link_of_the_documents_leads_somewhere() -> None:
    """What `make docs` checks with mkdocs, without it."""
    broken = []
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = link.partition("#")
            target = page if not place else page.parent / place
            if link.startswith("https://"):
                continue
            headings = re.findall(r"^#+ (.*)", target.read_text("utf-8"), flags=re.M) if target.suffix == ".md" else []
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            if not target.exists() or (anchor and anchor not in anchors):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_the_installed_wheel_shows_help(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, str(installed / "bin" / "qrp-store"), "--help")
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout
    where = run(installed, tmp_path, "-c", "import qrp_store.cli as c; print(c.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed)


def test_the_installed_wheel_migrates_a_database(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, str(installed / "bin" / "qrp-store"), "init", "--store", "here", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "catalog.db").is_file()
    done = run(installed, tmp_path, str(installed / "bin" / "qrp-store"), "leaderboard", "--store", "here", "--json")
    assert '"rows": []' in done.stdout, done.stderr


def test_python_m_is_the_command_line(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "qrp_store", "ls", "--store", "none", "--json")
    assert done.returncode == 3, done.stderr
    assert '"not_found"' in done.stdout
    assert run(installed, tmp_path, "-m", "qrp_store", "--version").stdout.startswith("qrp-store ")


def test_the_metadata_names_authors_and_pythons(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    text = archive.read(name).decode()
    assert "Author: The qrp-store authors" in text
    for python in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {python}" in text


def test_only_one_build_of_faiss_is_in_an_extra(project: dict[str, Any]) -> None:
    builds = {
        name: [r for r in requirements if r.startswith("faiss")]
        for name, requirements in project["project"]["optional-dependencies"].items()
    }
    assert {name: found for name, found in builds.items() if found} == {
        "cpu": ["faiss-cpu>=1.10"],
        "gpu": ["faiss-gpu-cuvs>=1.15"],
    }


def test_make_demo_installs_what_the_demo_needs_and_no_more() -> None:
    lines = subprocess.run(["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-e '.[cpu,demo]'" in lines
    assert "--quiet" not in lines
    assert "+cpu" in lines
    assert "index-url" not in lines


def test_constraints_name_packages_and_versions_only() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_every_direct_requirement_is_pinned(project: dict[str, Any]) -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = project["project"]["optional-dependencies"]
    wanted = [r for name, extra in extras.items() if name != "gpu" for r in extra] + project["project"]["dependencies"]
    assert {re.split(r"[\[><=~! ]", r, maxsplit=1)[0] for r in wanted} <= pinned


def test_the_version_is_said_once() -> None:
    import qrp_store

    assert metadata.version("qrp-store") == qrp_store.__version__
