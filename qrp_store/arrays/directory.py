"""A root in a folder of a file system."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qrp_store.arrays.layout import is_temporary
from qrp_store.arrays.root import PARTIAL, PIECE, Bytes, Entry, checked_path, read_name, write_name
from qrp_store.errors import Corrupt, InvalidInput, NotFound, Unavailable


class Directory:
    """A root in a folder of a file system. An object is a file, published by a hard link of a finished one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Directory({str(self._path)!r})"

    @property
    def url(self) -> str:
        return str(self._path)

    def read_identity(self) -> str | None:
        return read_name(self)

    def write_identity(self, uuid: str) -> None:
        write_name(self, uuid)

    def put(self, path: str, *parts: Bytes, replace: bool = False, durable: bool = True) -> None:
        target = self._at(path)
        with _translated("write", target):
            if not replace and target.exists():
                _require_same(target, parts)
                return
            _make_folder(target.parent, durable)
            partial = target.parent / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(6)}"
            try:
                with partial.open("xb", buffering=0) as file:
                    for part in parts:
                        _write_all(file.fileno(), part)
                    if durable:
                        os.fsync(file.fileno())
                if replace:
                    os.replace(partial, target)
                elif not _publish(partial, target):
                    _require_same(target, parts)
            finally:
                with suppress(FileNotFoundError):
                    partial.unlink()
            if durable:
                _sync_folder(target.parent)

    def sync(self, prefix: str) -> None:
        folder = self._at(prefix)
        with _translated("write", folder):
            if folder.is_file():
                _sync_file(folder)
            for where, _, names in os.walk(folder, topdown=False):
                for name in names:
                    _sync_file(Path(where) / name)
                _sync_folder(Path(where))
            _sync_folder(folder.parent)

    def get(self, path: str) -> bytes:
        target = self._at(path)
        with _translated("read", target):
            return target.read_bytes()

    def read_into(self, path: str, out: memoryview) -> Iterator[int]:
        target = self._at(path)
        with _translated("read", target), target.open("rb", buffering=0) as file:
            done = 0
            while got := file.readinto(out[done : done + PIECE]):
                done += got
                yield done
            if done == len(out) and file.read(1):
                yield done + 1

    def read_ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        target = self._at(path)
        with _translated("read", target):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                return [os.pread(descriptor, stop - start, start) for start, stop in spans]
            finally:
                os.close(descriptor)

    def size(self, path: str) -> int:
        target = self._at(path)
        with _translated("read", target):
            if not target.is_file():
                raise NotFound(f"{target}: no such object")
            return target.stat().st_size

    def exists(self, path: str) -> bool:
        target = self._at(path)
        with _translated("look for", target):
            return target.is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._at(prefix) if prefix else self._path
        with _translated("list", folder):
            paths = [p.relative_to(self._path).as_posix() for p in _files(folder) if not p.name.startswith(PARTIAL)]
        yield from sorted(paths)

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self._at(prefix) if prefix else self._path
        with _translated("list", folder):
            for file in _files(folder):
                if not is_temporary(file.parent.relative_to(self._path).as_posix(), file.name):
                    with suppress(FileNotFoundError):  # another process deletes it
                        status = file.lstat()
                        path, link = file.relative_to(self._path).as_posix(), stat.S_ISLNK(status.st_mode)
                        yield Entry(path, status.st_size, status.st_mtime, link)

    def delete(self, prefix: str) -> None:
        target = self._at(prefix)
        with _translated("delete", target):
            while target.is_dir():
                with suppress(FileNotFoundError):  # somebody else deletes the same
                    shutil.rmtree(target)
            target.unlink(missing_ok=True)

    def sweep(self, older_than_s: float) -> int:
        before, freed = time.time() - older_than_s, 0
        with _translated("sweep", self._path):
            for file in _files(self._path):
                if is_temporary(file.parent.relative_to(self._path).as_posix(), file.name):
                    with suppress(FileNotFoundError):
                        status = file.stat()
                        if status.st_mtime < before:
                            file.unlink()
                            freed += status.st_size
        return freed

    def link(self, source: str, target: str, names: Iterable[str]) -> None:
        for name in names:
            old, new = self._at(f"{source}/{name}"), self._at(f"{target}/{name}")
            with _translated("link", old):
                _make_folder(new.parent, durable=True)
                with suppress(FileExistsError):
                    try:
                        os.link(old, new)
                    except (FileExistsError, FileNotFoundError):
                        raise
                    except OSError:  # a file system without hard links
                        self.put(f"{target}/{name}", old.read_bytes())
                _sync_folder(new.parent)

    def _at(self, path: str) -> Path:
        """The file of an object. InvalidInput for a path that leads out of the root, through a symbolic link too."""
        target = self._path.joinpath(*checked_path(path).split("/"))
        root = os.path.realpath(self._path)
        if os.path.commonpath([root, os.path.realpath(target)]) != root:
            raise InvalidInput(
                f"{target}: a symbolic link leads out of the arrays' root",
                hint="put the files themselves there, or mount their disk",
            )
        return target


@contextmanager
def _translated(verb: str, path: Path) -> Iterator[None]:
    """The one seam where what the operating system says becomes our errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"{path}: no such object") from error
    except OSError as error:
        raise Unavailable(
            f"cannot {verb} {path}: {error.strerror or error}",
            hint="free space or mend access to the arrays' folder, then run the same command again",
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    for where, _, names in os.walk(folder, onerror=fail):
        yield from (Path(where) / name for name in names)


def _make_folder(folder: Path, durable: bool) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent, durable)
    folder.mkdir(exist_ok=True)
    if durable:
        _sync_folder(folder.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse to sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: Bytes) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view[: 64 * PIECE]) :]


def _publish(partial: Path, target: Path) -> bool:
    """Give the finished file its name, unless something has that name already."""
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError:  # no hard links here: a rename is as atomic, only blind to a writer of the same instant
        if target.exists():
            return False
        os.rename(partial, target)
    return True


def _require_same(target: Path, parts: tuple[Bytes, ...]) -> None:
    same = target.stat().st_size == sum(memoryview(p).nbytes for p in parts)
    if same:
        with target.open("rb") as file:
            for part in parts:
                view = memoryview(part).cast("B")
                for start in range(0, len(view), PIECE):
                    piece = view[start : start + PIECE]
                    same = same and file.read(len(piece)) == piece
    if not same:
        raise Corrupt(f"{target}: already there with other bytes, and what is stored never changes")
