"""What ingest reads from, as rows in the dataset's order: an array file, or images through a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.progress import Progress
from qrp_store.records import ArraySpec
from qrp_store.samples import ImageFile, list_images, shown
from qrp_store.sources.files import ArraySource, open_array, read_keys

if TYPE_CHECKING:
    from qrp_store.sources.backbone import BackboneOptions, LoadedBackbone

SeenFile = tuple[int, int, str | None]  # size in bytes, mtime in ns, digest (None: undecodable)


@dataclass(frozen=True)
class BlockRows:
    """One block's rows (rows, dim) in the stored dtype; `bad`: index inside the block → why; `files`: images seen."""

    rows: np.ndarray
    bad: Mapping[int, str]
    files: Sequence[SeenFile] = ()


class RowSource(Protocol):
    """Rows to ingest. `keys`, and everything by position, is in the dataset's order once `reorder` was called."""

    keys: Sequence[str]
    root: str | None

    @property
    def dim(self) -> int: ...

    @property
    def backbone(self) -> Mapping[str, Any]:
        """The backbone's specification: what makes its name mean one thing."""
        ...

    @property
    def content(self) -> str | None:
        """Digest of the numbers when they come from a file, None when a model makes them."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    def reorder(self, order: np.ndarray) -> None:
        """`order[position]` is the row (as the source has them now) that belongs at that position."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Whatever is needed before `dim`, `backbone` and `content` can be asked."""
        ...

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        """Blocks whose source is no longer what an earlier try saw."""
        ...

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        """The rows of these blocks, in this order."""
        ...


class ArrayRows:
    """Rows of an array file, cast to the stored dtype. Memory: two blocks."""

    root: str | None = None

    def __init__(self, path: Path, member: str | None, keys: Path | None, dtype: np.dtype[Any]) -> None:
        self._source: ArraySource = open_array(path, member)
        self._dtype = dtype
        self._order: np.ndarray | None = None
        self._content: str | None = None
        n = self._source.n
        self.keys: Sequence[str] = read_keys(keys) if keys is not None else [str(i) for i in range(n)]
        if len(self.keys) != n:
            raise InvalidInput(f"{path} has {n} rows, {keys} has {len(self.keys)} keys", hint="one key a row, in order")

    @property
    def dim(self) -> int:
        return self._source.dim

    @property
    def backbone(self) -> Mapping[str, Any]:
        return {"kind": "array", "dim": self._source.dim}

    @property
    def content(self) -> str | None:
        return self._content

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"field": self._source.field, "source_dtype": self._source.dtype.name}

    def reorder(self, order: np.ndarray) -> None:
        self.keys = [self.keys[row] for row in order]
        self._order = order

    def prepare(self, progress: Progress) -> None:
        digest = self._source.digest()
        if self._order is not None:
            digest = f"{digest}:{_order_digest(self._order)}"
        self._content = digest

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        return set()

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        # One block is read ahead while the caller writes the one before.
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            ahead = None
            for number in numbers:
                coming = reader.submit(self._block, *layout.rows_of(number))
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()

    def _block(self, start: int, count: int) -> BlockRows:
        raw = self._source.read(start, start + count) if self._order is None else self._gather(start, count)
        finite_before = _finite(raw)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = raw.astype(self._dtype, copy=False)
        finite = finite_before if rows is raw else _finite(rows)
        bad = {
            int(i): f"does not fit into {self._dtype.name}" if finite_before[i] else "NaN or Inf"
            for i in np.flatnonzero(~finite)
        }
        return BlockRows(rows, bad)

    def _gather(self, start: int, count: int) -> np.ndarray:
        assert self._order is not None
        wanted = self._order[start : start + count]
        out = np.empty((count, self._source.dim), self._source.dtype)
        ascending = np.argsort(wanted, kind="stable")
        # Runs of neighbouring rows are read at once, forwards.
        breaks = np.flatnonzero(np.diff(wanted[ascending]) != 1) + 1
        for run in np.split(ascending, breaks):
            first = int(wanted[run[0]])
            out[run] = self._source.read(first, first + len(run))
        return out


def _finite(rows: np.ndarray) -> np.ndarray:
    """Which rows hold only finite numbers."""
    if rows.dtype.kind != "f":
        return np.ones(len(rows), bool)
    # A sum is finite when all of its terms are; only the few rows that overflow need a closer look.
    with np.errstate(over="ignore", invalid="ignore"):
        fine: np.ndarray = np.isfinite(rows.sum(axis=1, dtype=np.float32 if rows.itemsize < 8 else np.float64))
    for i in np.flatnonzero(~fine):
        fine[i] = np.isfinite(rows[i]).all()
    return fine


def _digest(path: Path) -> str | None:
    from qrp_store.sources.images import digest_of

    try:
        return digest_of(path.read_bytes())
    except OSError:
        return None


def _order_digest(order: np.ndarray) -> str:
    """A short digest of a permutation."""
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16]


@dataclass
class ImageRows:
    """Rows that a model makes of the images of a folder."""

    folder: Path
    files: list[ImageFile] = field(init=False)
    _options: BackboneOptions | None = field(default=None, init=False)
    _model: LoadedBackbone | None = field(default=None, init=False)
    _batch_size: int = field(default=64, init=False)
    _workers: int | None = field(default=None, init=False)
    _seen: dict[int, SeenFile] = field(default_factory=dict, init=False)

    content = None

    def __post_init__(self) -> None:
        self.files = list_images(self.folder)
        self.keys: Sequence[str] = [f.key for f in self.files]
        self.root: str | None = str(self.folder.absolute())

    def choose_model(
        self,
        arch: str | None,
        weights: str,
        recipe: str,
        layer: str | None,
        image_size: int | None,
        seed: int,
        device: str,
        batch_size: int,
        workers: int | None,
    ) -> None:
        """Say which model embeds the images; it is loaded by `prepare`."""
        from qrp_store.sources.backbone import BackboneOptions

        assert arch is not None
        self._options = BackboneOptions(arch, weights, recipe, layer, image_size, seed, device)
        self._batch_size, self._workers = batch_size, workers

    def prepare(self, progress: Progress) -> None:
        from qrp_store.sources.backbone import load_backbone

        assert self._options is not None
        self._model = load_backbone(self._options)
        chosen = self._model.provenance.get("checkpoint")
        if chosen:
            progress.note(f"checkpoint: {chosen}")

    @property
    def model(self) -> LoadedBackbone:
        assert self._model is not None, "prepare() comes first"
        return self._model

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def backbone(self) -> Mapping[str, Any]:
        return self.model.spec

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"device": str(self.model.device), "batch_size": self._batch_size, **self.model.provenance}

    def reorder(self, order: np.ndarray) -> None:
        self.files = [self.files[row] for row in order]
        self.keys = [f.key for f in self.files]

    def refuse_changed(self, seen: Mapping[int, SeenFile]) -> None:
        """Raise InvalidInput when images of a known dataset have other bytes than when they were first read."""
        self._seen = dict(seen)
        self._refuse([i for i in range(len(self.files)) if self._changed(i, seen)])

    def _refuse(self, changed: Sequence[int]) -> None:
        if changed:
            keys = ", ".join(shown(self.keys[i]) for i in changed)
            raise InvalidInput(
                f"{len(changed)} images have changed since this dataset was made: {keys}",
                hint="restore them, or ingest the folder as another --dataset",
            )

    def _changed(self, position: int, seen: Mapping[int, SeenFile]) -> bool:
        """Like git: an image whose size and time are as recorded is the same; else its bytes are asked."""
        before, now = seen.get(position), self.files[position]
        if before is None or (before[0], before[1]) == (now.size, now.mtime_ns):
            return False
        return before[2] is not None and _digest(now.path) != before[2]

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        return {i // layout.block_rows for i in range(len(self.files)) if self._changed(i, seen)}

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        from qrp_store.sources.extract import extract

        wanted = [self.files[start : start + count] for start, count in map(layout.rows_of, numbers)]
        extracted = extract(self.model, wanted, batch_size=self._batch_size, workers=self._workers)
        for number, files, block in zip(numbers, wanted, extracted, strict=True):
            start = layout.rows_of(number)[0]
            now = [(f.size, f.mtime_ns, None if i in block.bad else block.digests[i]) for i, f in enumerate(files)]
            self._refuse([start + i for i in range(len(files)) if self._differs(start + i, block.digests[i])])
            yield BlockRows(block.rows.astype(layout.dtype), block.bad, now)

    def _differs(self, position: int, digest: str | None) -> bool:
        before = self._seen.get(position)
        return before is not None and before[2] is not None and digest is not None and digest != before[2]
