"""Images that do not lie in a folder as files: members of tar shards, bytes in Parquet, a list of paths.

Each is an `ImageFile` that reads its own bytes; keys are what a user would write, and never become paths.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, NotFound, first_line
from qrp_store.readers.arrays.columns import Column, choose_key, is_sure_key_name
from qrp_store.readers.arrays.formats import read_keys
from qrp_store.readers.arrays.matrix import choose, key_text
from qrp_store.readers.arrays.vector_tables import cells_of, kind_of
from qrp_store.readers.compressed import refuse_compressed
from qrp_store.readers.image_folders import counted, list_images
from qrp_store.readers.tars import tar_members
from qrp_store.samples import ImageFile, check_keys, shown

OTHER_KEYS_HINT = "--key-column C takes the keys from column C; --key-column - numbers the rows"
_KEPT_GROUPS = 2  # row groups in memory: threads that decode are at most at the border of two


def list_image_source(
    source: Path,
    field: str | None = None,
    key_root: str | None = None,
    key_column: str | None = None,
    not_taken: Counter[str] | None = None,
) -> tuple[list[ImageFile], str | None]:
    """The images of a folder, a .tar, a .parquet, a folder of either, or a .txt list; and the folder the keys are
    relative to, if there is one.

    Keys: paths relative to the folder (sorted); the member's name in a tar, `shard/member` in a folder of them; a
    Parquet file's column of keys or paths, else row numbers; the lines of a list, relative to `key_root` when that is
    given. `field` and `key_column` name Parquet columns.
    Files that are not taken are counted in `not_taken` by ending. Raises NotFound, or InvalidInput naming the fault.
    """
    if key_root is not None and source.suffix.lower() != ".txt":
        raise InvalidInput(f"--key-root goes with a list of paths (.txt) or an array; {source} is none")
    if key_column is not None and not source.is_dir() and source.suffix.lower() != ".parquet":
        raise InvalidInput(f"--key-column goes with Parquet or an array; {source} is neither")
    if source.is_dir():
        return _of_folder(source, field, key_column, not_taken)
    if not source.exists():
        raise NotFound(f"{source}: no such file or folder")
    ending = source.suffix.lower()
    not_taken = Counter() if not_taken is None else not_taken
    root: str | None = None
    if ending == ".tar":
        refuse_compressed(source)
        images = list(tar_members(source, "", not_taken))
    elif ending == ".parquet":
        images = list(_parquet_images(source, field, key_column, ""))
    elif ending == ".txt":
        images, root = _listed(source, key_root)
    else:
        hint = "a folder, .tar, .parquet with image bytes, or .txt with a path a line"
        if ending in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"):
            hint = "unpack it: compressed archives can only be read from their beginning"
        raise InvalidInput(f"{source}: not a source of images", hint=hint)
    if not images:
        more = f" ({counted(not_taken)})" if not_taken else ""
        raise InvalidInput(f"{source}: holds no images{more}")
    advice = OTHER_KEYS_HINT if ending == ".parquet" else None
    check_keys([image.key for image in images], str(source), "image", hint=advice)
    return images, root


def _of_folder(
    folder: Path, field: str | None, key_column: str | None, not_taken: Counter[str] | None
) -> tuple[list[ImageFile], str | None]:
    files: Counter[str] = Counter()
    try:
        images = list_images(folder, files)
    except InvalidInput:
        shards = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".tar", ".parquet") and p.is_file())
        if not shards:
            raise
    else:
        if key_column is not None:
            raise InvalidInput(f"--key-column goes with Parquet or an array; {folder} holds images")
        if not_taken is not None:
            not_taken += files
        return images, str(folder.absolute())
    shards = _of_one_kind(folder, shards)
    kind = shards[0].suffix.lower()
    if key_column is not None and kind != ".parquet":
        raise InvalidInput(f"--key-column goes with Parquet or an array; {folder} holds neither")
    files[kind] -= len(shards)
    images = []
    for shard in shards:
        name = shard.relative_to(folder).with_suffix("").as_posix() + "/"
        members = tar_members(shard, name, files) if kind == ".tar" else _parquet_images(shard, field, key_column, name)
        images += members
    if not images:
        raise InvalidInput(f"{folder}: its {len(shards)} shards hold no images")
    check_keys(
        [image.key for image in images], str(folder), "image", hint=OTHER_KEYS_HINT if kind == ".parquet" else None
    )
    if not_taken is not None:
        not_taken += files
    return images, None


def _of_one_kind(folder: Path, shards: list[Path]) -> list[Path]:
    """The shards of a folder. A Parquet file of the same name as a tar describes it (img2dataset writes both)."""
    tars = [shard for shard in shards if shard.suffix.lower() == ".tar"]
    stems = {tar.with_suffix("") for tar in tars}
    others = [shard for shard in shards if shard not in tars]
    if tars and all(other.with_suffix("") in stems and not _has_images(other) for other in others):
        return tars
    if tars and len(tars) < len(shards):
        raise InvalidInput(f"{folder}: holds both .tar and .parquet files", hint="put them into separate folders")
    return shards


@dataclass(frozen=True)
class ParquetImage(ImageFile):
    """An image in a row of a Parquet file; size and time are the file's."""

    row: int = 0
    column: _BytesColumn | None = None

    def read(self) -> bytes:
        assert self.column is not None
        return self.column.read(self.row)


class _BytesColumn:
    """Bytes by row of a Parquet column, for several threads; the row groups read last are kept."""

    def __init__(self, path: Path, column: str, ends: Sequence[int]) -> None:
        self._path, self._column, self._ends = path, column, ends
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_column": self._column, "_ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, row: int) -> bytes:
        group = bisect_right(self._ends, row)
        try:
            with self._lock:
                if group not in self._kept:
                    self._kept[group] = self._group(group)
                    if len(self._kept) > _KEPT_GROUPS:
                        self._kept.popitem(last=False)
                self._kept.move_to_end(group)
                cells = self._kept[group]
            value = cells[row - (self._ends[group - 1] if group else 0)].as_py()
        except Exception as error:  # a damaged page breaks pyarrow in many ways
            raise InvalidInput(f"{self._path}: row {row} cannot be read ({first_line(error)})") from error
        if not isinstance(value, bytes):
            raise InvalidInput("no bytes in this row")
        return value

    def _group(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self._path)
        column = file.read_row_group(group, columns=[self._column], use_threads=False).column(0)
        return column.combine_chunks().field("bytes") if pa.types.is_struct(column.type) else column


def _parquet_images(path: Path, field: str | None, key_column: str | None, prefix: str) -> Iterator[ImageFile]:
    """The rows of a column of bytes, or of Hugging Face's {bytes, path}."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        columns = {
            f.name: f"{f.name}.bytes" if pa.types.is_struct(f.type) else f.name for f in schema if _is_bytes(f.type)
        }
        if field is None and len(columns) > 1:  # keys may be bytes, too
            columns = {name: place for name, place in columns.items() if not is_sure_key_name(name)} or columns
        chosen = choose(path, list(columns), field)
        keys = _parquet_keys(path, file, chosen, key_column)
        ends = list(accumulate(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)))
        status = path.stat()
    except InvalidInput:
        raise
    except Exception as error:  # a damaged footer breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error
    column = _BytesColumn(path, columns[chosen], ends)
    for row in range(ends[-1] if ends else 0):
        key = prefix + (str(row) if keys is None else keys[row])
        yield ParquetImage(key, path, status.st_size, status.st_mtime_ns, row, column)


def _parquet_keys(path: Path, file: Any, images: str, key_column: str | None) -> list[str] | None:
    """The keys of a file's rows: of `key_column`, else of one named like keys, else the images' own paths;
    None to number the rows. Raises InvalidInput for rows without one where others have one."""
    import pyarrow as pa

    schema = file.schema_arrow
    columns = [Column(field.name, kind_of(field.type)) for field in schema if field.name != images]
    named = choose_key(path, columns, key_column)
    if named is not None:
        cells: Iterable[object] = cells_of(path, named)
    elif key_column is None and pa.types.is_struct(schema.field(images).type):
        if schema.field(images).type.get_field_index("path") < 0:
            return None
        named = f"{images}.path"
        parts = file.read([named]).column(0).chunks
        cells = (cell for part in parts for cell in part.field("path").to_pylist())
    else:
        return None
    texts = list(map(key_text, cells))
    missing = [row for row, text in enumerate(texts) if text is None]
    if len(missing) == len(texts) and key_column is None:
        return None
    if missing:
        raise InvalidInput(
            f"{path}: {len(missing)} of {len(texts)} rows have no key in {named}, row {missing[0]} first",
            hint=OTHER_KEYS_HINT,
        )
    return [text for text in texts if text is not None]


def _has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of bytes."""
    import pyarrow.parquet as pq

    try:
        return any(_is_bytes(field.type) for field in pq.ParquetFile(path).schema_arrow)
    except Exception as error:  # a damaged footer breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


def _listed(path: Path, key_root: str | None) -> tuple[list[ImageFile], str | None]:
    """The files that a list names, one a line: absolute, or relative to `key_root`, else to the list's folder."""
    lines = read_keys(path)
    root = Path(key_root).expanduser().absolute() if key_root is not None else path.parent.absolute()
    images = []
    first: dict[str, str] = {}
    for line in lines:
        file = root / line
        other = first.setdefault(os.path.normpath(file), line)
        if other != line:
            raise InvalidInput(f"{path}: {shown(other)} and {shown(line)} are one file", hint="leave one of them out")
        key = line
        if key_root is not None and os.path.isabs(line):
            if not file.is_relative_to(root):
                raise InvalidInput(f"{path}: {shown(line)} does not lie below --key-root {key_root}")
            key = file.relative_to(root).as_posix()
        try:
            status = file.stat()
            images.append(ImageFile(key, file, status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):  # whoever reads it reports it
            images.append(ImageFile(key, file, 0, 0))
    return images, str(root)
