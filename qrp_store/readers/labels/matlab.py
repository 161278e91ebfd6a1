"""SUN attributes: three MATLAB files with the images, the attributes, and the votes of three annotators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.errors import InvalidInput, Unavailable, first_line
from qrp_store.readers.labels.file_keys import FileKeys
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.samples import shown

_VOTES = "attributeLabels_continuous.mat"
_FILES = {_VOTES: "labels_cv", "attributes.mat": "attributes", "images.mat": "images"}


def is_sun(folder: Path) -> bool:
    """Return whether a folder is SUN Attribute's."""
    return all((folder / name).is_file() for name in _FILES)


def read_sun(source: Source) -> Iterator[LabelRows]:
    """SUN Attribute: the share of annotators who saw an attribute in an image is its score. The group is `attribute`.

    Pairs with no vote, or at least two of three, were looked at; one vote alone leaves a pair unknown, as the authors
    advise.
    """
    folder, keys, batch = source.path, FileKeys(source), Batch(source, scored=True)
    group = source.group or "attribute"
    names = [
        batch.term(f"attributes.mat, row {i}", name) for i, name in enumerate(_texts(folder / "attributes.mat"), 1)
    ]
    images = _texts(folder / "images.mat")
    votes = np.asarray(_variable(folder / _VOTES))
    if votes.shape != (len(images), len(names)) or votes.dtype.kind not in "fiu":
        raise InvalidInput(
            f"{folder / _VOTES}: holds {votes.dtype} of shape {votes.shape}, expected numbers of "
            f"{len(images)} images × {len(names)} attributes"
        )
    vocabulary: list[Term] = [(name, group) for name in names]
    for number, (image, row) in enumerate(zip(images, votes.tolist(), strict=True), 1):
        place = f"row {number}"
        key = keys.of(batch.text(place, "key", image))
        for name, share in zip(names, row, strict=True):
            score = batch.score(place, share)
            if score > 0.5:
                batch.add(place, key, name, score, group, verified=True)
            elif score == 0:
                batch.pair(key, name, group, holds=False)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def _texts(path: Path) -> list[str]:
    """Return a cell array of texts."""
    cells = np.asarray(_variable(path), dtype=object).ravel()
    texts = [np.asarray(cell).ravel() for cell in cells]
    wrong = next((i for i, text in enumerate(texts, 1) if len(text) != 1 or not isinstance(text[0], str)), None)
    if wrong is not None:
        raise InvalidInput(f"{path}: row {wrong} is no text, but {shown(str(cells[wrong - 1]), 40)}")
    return [str(text[0]) for text in texts]


def _variable(path: Path) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise Unavailable(
            f"{path}: MATLAB files need scipy ({error})", hint="pip install 'qrp-store[matlab]'"
        ) from error
    name = _FILES[path.name]
    try:
        content = loadmat(path, variable_names=[name])
    except OSError:
        raise
    except Exception as error:  # scipy has many for a file that is damaged, or of MATLAB 7.3
        raise InvalidInput(
            f"{path}: not a MATLAB file, or damaged ({first_line(error)})",
            hint="a file of MATLAB 7.3 must be saved with -v7",
        ) from error
    if name not in content:
        raise InvalidInput(f"{path}: has no variable {name!r}")
    return content[name]
