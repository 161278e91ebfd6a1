"""Hooks of mkdocs: README.md becomes the first page of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OUTSIDE_DOCS = ("CONTRIBUTING.md", "LICENSE", "benchmarks/RESULTS.md")


def on_files(files: Any, config: Any) -> Any:
    """Add README.md, and the files outside docs/ that it links to, with links that fit their new places."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for name in ("README.md", *_OUTSIDE_DOCS):
        text = (root / name).read_text("utf-8").replace("](docs/", "](").replace("](../docs/", "](../")
        files.append(File.generated(config, "index.md" if name == "README.md" else name, content=text))
    return files
