"""The images of an uncompressed tar archive, read where they lie; none is lost without a word."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qrp_store.errors import InvalidInput, first_line
from qrp_store.images import recognised
from qrp_store.readers.image_folders import NO_ENDING, image_endings, kind_of_name
from qrp_store.samples import ImageFile, shown

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = 1 << 20  # bytes compared with zeros at once


@dataclass(frozen=True)
class TarMember(ImageFile):
    """A member of an uncompressed tar: `size` bytes of the file at `path`, from `offset`."""

    offset: int = 0

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def tar_members(path: Path, prefix: str, not_taken: Counter[str] | None = None) -> Iterator[ImageFile]:
    """The images among the members, in the archive's order; other members are counted in `not_taken` by ending.

    Archives one after the other in one file (`cat a.tar b.tar`) are read to the last. Raises InvalidInput for an
    archive that is cut off, and for bytes behind its end that are no archive.
    """
    left_out: Counter[str] = Counter() if not_taken is None else not_taken
    start: int | None = 0
    with path.open("rb") as file:
        mtime = os.fstat(file.fileno()).st_mtime_ns
        while start is not None:
            file.seek(start)
            end = start
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for member in archive:
                        image = _image(path, file, archive, member, prefix, mtime, left_out)
                        if image is not None:
                            yield image
                    end = archive.offset
            except (tarfile.TarError, OSError, KeyError, ValueError) as error:
                if start:
                    raise InvalidInput(
                        f"{path}: bytes behind the archive's end, at {start}, are no archive", hint=_AGAIN
                    ) from error
                what = f"{path}: not an uncompressed tar archive, or damaged ({first_line(error)})"
                raise InvalidInput(what) from error
            start = _next_archive(path, file, end)


_AGAIN = "fetch the archive again, or make it again"


def _image(
    path: Path,
    file: IO[bytes],
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    prefix: str,
    mtime: int,
    not_taken: Counter[str],
) -> TarMember | None:
    """The image that a member is, or None. Links are followed inside the archive."""
    if member.isdir():
        return None
    name = member.name.removeprefix("./")
    kind = kind_of_name(name)
    if kind not in image_endings() and kind != NO_ENDING:
        not_taken[kind] += 1
        return None
    stored = _linked(path, archive, member) if member.islnk() or member.issym() else member
    if stored is None or not stored.isreg() or stored.issparse():
        if kind == NO_ENDING:
            not_taken[kind] += 1
            return None
        what = "a link to a file that is not in the archive" if stored is None else "no plain file"
        raise InvalidInput(f"{path}: member {shown(name)} is {what}", hint="make it with tar --dereference")
    if kind == NO_ENDING:
        place = file.tell()
        file.seek(stored.offset_data)
        is_image = recognised(file.read(min(16, stored.size)))
        file.seek(place)
        if not is_image:
            not_taken[kind] += 1
            return None
    return TarMember(prefix + name, path, stored.size, mtime, stored.offset_data)


def _linked(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The member that a link leads to, or None when it is not in the archive."""
    for _ in range(8):
        name = member.linkname
        if member.issym():
            name = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), name))
        for candidate in (name, f"./{name}", name.removeprefix("./")):
            try:
                member = archive.getmember(candidate)
                break
            except KeyError:
                continue
        else:
            return None
        if not (member.islnk() or member.issym()):
            return member
    return None


def _next_archive(path: Path, file: IO[bytes], end: int) -> int | None:
    """Where another archive begins behind the end mark of one, at byte `end`; None at the end of the file.

    Raises InvalidInput where no end mark is: the archive was cut off, or a header is damaged (tarfile takes a bad
    header for the end).
    """
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise InvalidInput(
            f"{path}: cut off or damaged at byte {end}, where neither a member nor the archive's end is", hint=_AGAIN
        )
    place = end + _BLOCK
    while piece := file.read(_ZEROS):
        rest = piece.lstrip(b"\0")
        if rest:
            return (place + len(piece) - len(rest)) // _BLOCK * _BLOCK
        place += len(piece)
    return None
