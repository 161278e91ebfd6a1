"""Who imports whom in this project, and a drawing of it: `make graph` writes docs/import-graph.svg."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"qrp_store": "qrp_store", "cli": "qrp_store.cli", "migrations": "qrp_store.migrations"}
SHARED = {
    "errors",
    "key_matching",
    "device",
    "options",
    "records",
    "settings",
    "progress",
    "execution",
    "samples",
    "images",
}
LEAVES = {"catalog", "arrays", "readers", "models", "kmeans", "probing", "rendering"}
COLUMN, ROW, WIDTH, HEIGHT = 118, 92, 104, 30


@dataclass(frozen=True)
class Module:
    """A module and what it imports; `types`: what it imports for type checkers alone."""

    name: str
    path: Path
    imports: frozenset[str]
    types: frozenset[str]

    @property
    def unit(self) -> str:
        """What layers are made of: a package below qrp_store, or one of its modules."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[Module]:
    result = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name == "__main__.py":  # `python -m`, above everything
                continue
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join([package, *(parts[:-1] if is_package else parts)])
            tree = ast.parse(path.read_text(encoding="utf-8"))
            typing = type_checking(tree)
            imports = frozenset(imported(set(ast.walk(tree)) - typing, name, is_package))
            result.append(Module(name, path, imports, frozenset(imported(typing, name, is_package)) - imports))
    return result


def type_checking(tree: ast.Module) -> set[ast.AST]:
    """The nodes below `if TYPE_CHECKING:`."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }


def imported(nodes: set[ast.AST], name: str, is_package: bool) -> Iterator[str]:
    """Every module that these nodes import, inside functions too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def unit_of(name: str) -> str:
    """What layers are made of: a package below qrp_store, or one of its modules."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def edges(found: Sequence[Module]) -> dict[str, set[str]]:
    """The other units that each unit imports."""
    names = {module.name for module in found}
    graph: dict[str, set[str]] = {module.unit: set() for module in found}
    for module in found:
        graph[module.unit] |= {unit_of(i) for i in module.imports if i in names} - {module.unit, "__init__"}
    # Alembic's scripts and the catalog find each other by name
    graph["catalog"].discard("migrations")
    return graph


def levels(graph: dict[str, set[str]]) -> list[list[str]]:
    """Units in rows, the highest first: each imports only from rows below its own."""
    depth: dict[str, int] = {}

    def down(unit: str) -> int:
        if unit not in depth:
            depth[unit] = 1 + max((down(below) for below in graph[unit] if below not in SHARED), default=0)
        return depth[unit]

    rows: dict[int, list[str]] = {}
    for unit in sorted(set(graph) - SHARED - {"__init__"}):
        rows.setdefault(down(unit), []).append(unit)
    return [rows[level] for level in sorted(rows, reverse=True)] + [sorted(SHARED)]


def drawn(graph: dict[str, set[str]]) -> str:
    """The units as boxes and an arrow for each import; what everybody may import stands below, without arrows."""
    rows = levels(graph)
    across = max(map(len, rows)) * COLUMN
    place = {
        unit: ((across - len(row) * COLUMN) / 2 + (i + 0.5) * COLUMN, 30 + level * ROW)
        for level, row in enumerate(rows)
        for i, unit in enumerate(row)
    }
    lines = []
    for unit, below in sorted(graph.items()):
        for other in sorted(below - SHARED):
            if unit in place:
                (x0, y0), (x1, y1) = place[unit], place[other]
                start, end = y0 + HEIGHT / 2, y1 - HEIGHT / 2
                lines.append(f'<path d="M{x0:g} {start:g} C{x0:g} {start + 40:g} {x1:g} {end - 40:g} {x1:g} {end:g}"/>')
    boxes = []
    for unit, (x, y) in sorted(place.items()):
        kind = "shared" if unit in SHARED else "leaf" if unit in LEAVES else "story"
        left, top = x - WIDTH / 2, y - HEIGHT / 2
        boxes.append(
            f'<g class="{kind}"><rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
            f'<text x="{x:g}" y="{y + 4:g}">{escape(unit)}</text></g>'
        )
    style = (
        "text{font:12px sans-serif;text-anchor:middle}path{fill:none;stroke:#8884}rect{stroke:#555}"
        ".story rect{fill:#cfe3f7}.leaf rect{fill:#f9e0b8}.shared rect{fill:#e6e6e6}"
    )
    size = f'viewBox="0 0 {across:g} {len(rows) * ROW:g}"'
    title = "<title>Who imports whom; imports point down</title>"
    background = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', title, f"<style>{style}</style>", background]
    return "\n".join([*parts, *lines, *boxes, "</svg>", ""])


def main() -> None:
    (ROOT / "docs" / "import-graph.svg").write_text(drawn(edges(modules())), encoding="utf-8")


if __name__ == "__main__":
    main()
