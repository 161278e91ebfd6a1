"""Frozen records that modules exchange, and the fingerprint of a specification.

An *artifact* is what the store computes and versions: an embedding, a concept set, a clustering, a result. Its
`fingerprint` identifies the request: kind, algorithm version, every option that changes a number, the identity of its
inputs. Versions count within its `series`. Its `id` is never used again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qrp_store.errors import InvalidInput

Kind = Literal["embedding", "concepts", "clustering", "result"]
State = Literal["writing", "ready", "retired", "failed"]
PREFIX: Mapping[str, str] = {
    "dataset": "ds",
    "backbone": "bb",
    "embedding": "emb",
    "concepts": "con",
    "clustering": "clu",
    "result": "res",
}
TRAIN, VAL, TEST = 0, 1, 2
PART_NAMES = ("train", "val", "test")


def canonical(document: object) -> str:
    """Return the canonical JSON of a document: sorted keys, no spaces, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(document: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of a document."""
    return hashlib.sha256(canonical(document).encode("utf-8", "surrogatepass")).hexdigest()


def derive_seed(seed: int, stream: str) -> int:
    """Return the seed (31 bits) of one named stream ("kmeans", "split", "shuffle", …) of the user's seed.

    Raise InvalidInput for a seed that a database cannot hold.
    """
    if not -(2**63) <= seed < 2**63:
        raise InvalidInput(f"--seed {seed}: a seed has at most 64 bits")
    digest = hashlib.sha256(f"qrp-store:{stream}:{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Table:
    """Rows of a listing, a query or an export."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def named(self) -> list[dict[str, Any]]:
        """Return each row as column → value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Spec:
    """A request for an artifact. Versions count within `series`; `document` holds everything that changes a number."""

    kind: Kind
    name: str
    series: str
    document: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint({"kind": self.kind, **self.document})


@dataclass(frozen=True)
class Artifact:
    """A row of the artifact table, of any kind. `version` is None until it is ready."""

    id: str
    kind: Kind
    name: str
    series: str
    version: int | None
    fingerprint: str
    state: State
    spec: Mapping[str, Any]
    provenance: Mapping[str, Any]
    path: str | None
    created_at: str
    created_by: str

    @property
    def identity(self) -> list[Any]:
        """Return what the fingerprint of a dependent artifact contains of this one."""
        return [self.fingerprint, self.version]


@dataclass(frozen=True)
class Dataset:
    """An ordered set of samples. `fingerprint` is the digest of the keys in order."""

    id: str
    name: str
    n: int
    fingerprint: str


@dataclass(frozen=True)
class Sample:
    """A sample's key and, for images, size, time and digest of its file, to detect changed bytes."""

    key: str
    size: int | None = None
    mtime_ns: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Backbone:
    """A model that maps an image to a vector. `spec` holds architecture, weights, layer, preprocessing."""

    id: str
    name: str
    fingerprint: str
    spec: Mapping[str, Any]


def preprocessing_line(preprocessing: Mapping[str, Any] | None) -> str | None:
    """Return a backbone's preprocessing, as its `spec` holds it, in one line; None when unknown (stored arrays)."""
    if not preprocessing or "image_size" not in preprocessing:
        return None
    mode = preprocessing.get("crop_mode")
    side = {"squash": "both sides", "border": "longer side"}.get(str(mode), "shorter side")
    cut = "pad to" if mode == "border" else "crop the middle"
    statistics = " ".join(f"{name} {_statistics(preprocessing[name])}" for name in ("mean", "std"))
    resize = f"{side} to {preprocessing['resize']} ({preprocessing['interpolation']})"
    return f"{resize}, {cut} {preprocessing['image_size']}; {statistics}"


def _statistics(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:.4g}" for value in values)


@dataclass(frozen=True)
class Block:
    """One chunk of an embedding: rows [start, start + rows) of the array, as one stored object.

    `checksum` is the crc32c of the rows' bytes as 8 hex digits; `bad` are the array positions without a vector.
    `rolling` holds (little-endian, 4 bytes each) the crc32c of all bytes up to the end of each group of rows, so that
    single rows can be read and verified; None for blocks of older stores.
    """

    index: int
    start: int
    rows: int
    nbytes: int
    checksum: str
    bad: tuple[int, ...] = ()
    rolling: bytes | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ArraySpec:
    """Path and layout of a blocked array: shape (n, dim), one block = `block_rows` rows."""

    path: str
    n: int
    dim: int
    dtype: str
    block_rows: int

    @property
    def n_blocks(self) -> int:
        return -(-self.n // self.block_rows)

    def rows_of(self, index: int) -> tuple[int, int]:
        """Return the first row and the number of rows of block `index`."""
        start = index * self.block_rows
        return start, min(self.block_rows, self.n - start)


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding in the catalog, ready or still being written."""

    artifact: Artifact
    dataset: Dataset
    backbone: Backbone
    array: ArraySpec
    blocks: tuple[Block, ...] = field(repr=False)

    @property
    def bad(self) -> tuple[int, ...]:
        return tuple(p for b in self.blocks for p in b.bad)

    @property
    def usable(self) -> int:
        """Number of rows with a vector."""
        return self.array.n - sum(len(block.bad) for block in self.blocks)


@dataclass(frozen=True)
class Finding:
    """The result of one check of `doctor`. `status`: ok, warning or problem; `advice` says what to do about it."""

    check: str
    status: Literal["ok", "warning", "problem"]
    found: str
    advice: str | None = None
