"""Imports point down, siblings never import each other, every foreign library has one owner, modules stay short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"qrp_store": "qrp_store", "cli": "qrp_store.cli", "migrations": "qrp_store.migrations"}
SHARED = {"errors", "records", "settings", "progress", "execution", "samples"}
LEAVES = {"catalog", "arrays", "sources", "concepts", "clustering", "probing", "reporting"}

# who may import a foreign library, lazily or not; a prefix of the module's name
OWNERS = {
    "alembic": ("qrp_store.migrations", "qrp_store.catalog.schema"),
    "click": (),
    "dask": ("qrp_store.execution", "qrp_store.embedding"),
    "distributed": ("qrp_store.execution", "qrp_store.embedding"),
    "ijson": ("qrp_store.concepts",),  # JSON documents larger than memory
    "faiss": ("qrp_store.clustering",),
    "h5py": ("qrp_store.sources",),
    "psycopg": ("qrp_store.catalog",),
    "jinja2": ("qrp_store.reporting",),
    "matplotlib": ("qrp_store.reporting",),
    "obstore": ("qrp_store.arrays",),
    "rich": ("qrp_store.cli",),
    "sqlalchemy": ("qrp_store.catalog", "qrp_store.migrations"),
    "sqlite3": ("qrp_store.catalog",),
    "timm": ("qrp_store.sources", "qrp_store.concepts"),
    "torch": (
        "qrp_store.sources",
        "qrp_store.concepts",
        "qrp_store.clustering.torch",
        "qrp_store.probing",
        "qrp_store.embedding",
    ),
    "torchvision": ("qrp_store.sources", "qrp_store.concepts"),
    "typer": ("qrp_store.cli",),
    "zarr": ("qrp_store.arrays",),
}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    imports: frozenset[str]

    @property
    def unit(self) -> str:
        """What layers are made of: a package below qrp_store, or one of its modules."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[Module]:
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join([package, *(parts[:-1] if is_package else parts)])
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found.append(Module(name, path, frozenset(imported(tree, name, is_package))))
    return found


def imported(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Every module that is imported, inside functions too; what only type checkers see is left out."""
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


MODULES = modules()
NAMES = {m.name for m in MODULES}


def own(module: Module) -> set[str]:
    """The modules of this project that it imports."""
    return {i for i in module.imports if i in NAMES and i != module.name}


def unit_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_there_is_something_to_check() -> None:
    assert {m.unit for m in MODULES} >= LEAVES
    zarr = next(m for m in MODULES if m.name == "qrp_store.arrays.arrays")
    assert any(i.split(".")[0] == "zarr" for m in MODULES if m.unit == "arrays" for i in m.imports), zarr


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_foreign_library_has_one_owner(library: str) -> None:
    users = {m.name for m in MODULES if any(i.split(".")[0] == library for i in m.imports)}
    strangers = {u for u in users if not any(u == o or u.startswith((o + ".", o + "_")) for o in OWNERS[library])}
    assert not strangers


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_a_leaf_imports_only_the_shared_words(leaf: str) -> None:
    for module in (m for m in MODULES if m.unit == leaf):
        above = {i for i in own(module) if unit_of(i) not in {leaf, "__init__", *SHARED}}
        if module.name == "qrp_store.catalog.schema":
            above -= {i for i in above if unit_of(i) == "migrations"}
        assert not above, f"{module.name} imports {above}"


def test_the_shared_words_import_no_layer_above() -> None:
    for module in (m for m in MODULES if m.unit in SHARED):
        assert {unit_of(i) for i in own(module)} <= SHARED | {"__init__"}, module.name
        if module.unit != "execution":
            foreign = {i.split(".")[0] for i in module.imports} - set(sys.stdlib_module_names) - {"qrp_store"}
            assert foreign <= {"numpy"}, f"{module.name} imports {foreign}"


def test_nothing_below_imports_the_command_line() -> None:
    users = {m.name for m in MODULES if m.unit != "cli" and any(unit_of(i) == "cli" for i in own(m))}
    assert not users


def test_the_command_line_reaches_no_leaf() -> None:
    for module in (m for m in MODULES if m.unit == "cli"):
        reached = {unit_of(i) for i in own(module)} & (LEAVES | {"migrations"})
        assert not reached, f"{module.name} imports {reached}"


def test_no_two_units_import_each_other() -> None:
    edges = {(m.unit, unit_of(i)) for m in MODULES for i in own(m)}
    # open() in the package's front imports the store when it is called
    edges = {(a, b) for a, b in edges if a != b and "__init__" not in (a, b)}
    # Alembic's scripts read the tables; the catalog finds the scripts
    edges -= {("migrations", "catalog"), ("catalog", "migrations")}
    assert not {(a, b) for a, b in edges if (b, a) in edges}


def test_modules_are_not_circular() -> None:
    graph = {m.name: {i for i in own(m) if i != "qrp_store"} for m in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for below in graph[name]:
                # a package's front may gather its own modules
                if not name.startswith(below + "."):
                    visit(below, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
def test_a_module_stays_below_400_lines(module: Module) -> None:
    assert len(module.path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
def test_names_say_what_things_are(module: Module) -> None:
    assert not {"utils", "helpers", "manager", "common", "misc"} & set(module.name.split("."))
