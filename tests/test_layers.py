"""Imports point down, siblings never import each other, every foreign library has one owner, modules stay short."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from import_graph import LEAVES, ROOT, SHARED, Module, drawn, edges, modules, unit_of

# who may import a foreign library, lazily or not; a prefix of the module's name
OWNERS = {
    "alembic": ("qrp_store.migrations", "qrp_store.catalog.database.schema"),
    "click": (),
    "huggingface_hub": ("qrp_store.models",),
    "onnxruntime": ("qrp_store.models",),
    "open_clip": ("qrp_store.models",),
    "transformers": ("qrp_store.models",),
    "dask": ("qrp_store.execution", "qrp_store.embedding"),
    "distributed": ("qrp_store.execution", "qrp_store.embedding"),
    "ijson": ("qrp_store.readers",),  # JSON documents larger than memory
    "faiss": ("qrp_store.kmeans",),
    "h5py": ("qrp_store.readers",),
    "psycopg": ("qrp_store.catalog",),
    "jinja2": ("qrp_store.rendering",),
    "matplotlib": ("qrp_store.rendering",),
    "obstore": ("qrp_store.arrays",),
    "rich": ("qrp_store.cli",),
    "starlette": ("qrp_store.serve",),
    "uvicorn": ("qrp_store.serve",),
    "scipy": ("qrp_store.readers",),
    "sqlalchemy": ("qrp_store.catalog", "qrp_store.migrations"),
    "sqlite3": ("qrp_store.catalog",),
    "timm": ("qrp_store.models",),
    "torch": (
        "qrp_store.device",
        "qrp_store.models",
        "qrp_store.readers.arrays.nested",
        "qrp_store.kmeans.torch",
        "qrp_store.probing",
        "qrp_store.embedding",
    ),
    "torchvision": ("qrp_store.models",),
    "typer": ("qrp_store.cli",),
    "zarr": ("qrp_store.arrays",),
}


MODULES = modules()
NAMES = {m.name for m in MODULES}


def own(module: Module) -> set[str]:
    """The modules of this project that it imports."""
    return {i for i in module.imports if i in NAMES and i != module.name}


def test_there_is_something_to_check() -> None:
    assert {m.unit for m in MODULES} >= LEAVES
    zarr = next(m for m in MODULES if m.name == "qrp_store.arrays.blocked")
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
        if module.name == "qrp_store.catalog.database.schema":
            above -= {i for i in above if unit_of(i) == "migrations"}
        assert not above, f"{module.name} imports {above}"


def test_the_shared_words_import_no_layer_above() -> None:
    for module in (m for m in MODULES if m.unit in SHARED):
        assert {unit_of(i) for i in own(module)} <= SHARED | {"__init__"}, module.name
        libraries = {"device": {"torch"}, "execution": {"dask", "distributed"}, "images": {"PIL"}}.get(
            module.unit, set()
        )
        foreign = {i.split(".")[0] for i in module.imports} - set(sys.stdlib_module_names) - {"qrp_store"}
        assert foreign <= {"numpy", *libraries}, f"{module.name} imports {foreign}"


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


def test_modules_are_not_circular_for_type_checkers_either() -> None:
    waits = ("qrp_store.cluster.quantize", "qrp_store.cluster.story")  # until the options lie below both
    graph = {
        m.name: {
            i
            for i in (m.imports | (frozenset() if m.name in waits else m.types)) & NAMES
            if i not in ("qrp_store", m.name)
        }
        for m in MODULES
    }
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


def test_a_module_stays_below_500_lines() -> None:
    lengths = {m.name: len(m.path.read_text(encoding="utf-8").splitlines()) for m in MODULES}
    assert not {name: length for name, length in lengths.items() if length >= 500}


def test_names_say_what_things_are() -> None:
    vague = {"utils", "helpers", "manager", "common", "misc"}
    assert not [m.name for m in MODULES if vague & set(m.name.split("."))]


# participles and adverbs of place: a name says what a variable holds
VAGUE = {"asked", "beside", "found", "gone", "here", "mine", "own", "said", "theirs", "there", "told", "wanted"}
NOT_YET = ("evaluate",)


def test_variables_say_what_they_hold() -> None:
    vague = {m.name: sorted(bound(m.path) & VAGUE) for m in MODULES if m.unit not in NOT_YET}
    assert not {name: names for name, names in vague.items() if names}


def bound(path: Path) -> set[str]:
    """The names of variables and parameters that a module binds; fields of records may be keys of JSON."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    fields = {
        line.target
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    nodes = [node for node in nodes if node not in fields]
    names = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    names += [node.arg for node in nodes if isinstance(node, ast.arg)]
    return {name.strip("_") for name in names}


def test_the_drawing_of_the_imports_is_the_code() -> None:
    stored = (ROOT / "docs" / "import-graph.svg").read_text(encoding="utf-8")
    assert stored == drawn(edges(MODULES)), "run: make graph"
