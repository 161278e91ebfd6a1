"""Pictures for the pages: a dataset's images, reduced and kept on disk within a bound."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from threading import Lock

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.images import decode_bytes
from qrp_store.rendering.thumbnails import LARGEST_FILE, below, image_bytes

SIDES = (96, 512)
_MOST_BYTES = 256 << 20


class Pictures:
    """WebP pictures of images below a folder. `folder` None: a temporary one that goes with the object."""

    def __init__(self, folder: Path | None = None, limit: int = _MOST_BYTES) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="qrp-store-serve-") if folder is None else None
        self._folder = Path(self._temporary.name) if self._temporary else Path(folder or ".")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._limit, self._new, self._lock = limit, 0, Lock()

    def picture(self, root: Path, key: str, side: int, digest: str | None = None) -> bytes:
        """The image that a key names below `root`, at most `side` pixels wide and high.

        Raise NotFound when there is none, or when a `digest` is given and the file has another one.
        """
        path = below(root, key)
        if path is None:
            raise NotFound("there is no image of that key")
        status = path.stat()
        mark = hashlib.sha256(
            f"{path}\0{status.st_mtime_ns}\0{status.st_size}\0{side}\0{digest}".encode("utf-8", "replace")
        )
        kept = self._folder / f"{mark.hexdigest()}.webp"
        try:
            data = kept.read_bytes()
            os.utime(kept)
            return data
        except FileNotFoundError:
            pass
        if status.st_size > LARGEST_FILE:
            raise NotFound("the image file is too large to show")
        data = _reduced(path, side, digest)
        partial = self._folder / f"{mark.hexdigest()}.{os.getpid()}.{id(data)}.part"
        partial.write_bytes(data)
        os.replace(partial, kept)
        self._bound(len(data))
        return data

    def _bound(self, size: int) -> None:
        """Delete the pictures used longest ago, once those written since the last time are a tenth of the limit."""
        with self._lock:
            self._new += size
            if self._new < self._limit // 10:
                return
            self._new = 0
            files = sorted((f.stat().st_mtime_ns, f.stat().st_size, f) for f in self._folder.glob("*.webp"))
            total = sum(size for _, size, _ in files)
            for _, size, file in files:
                if total <= self._limit:
                    break
                file.unlink(missing_ok=True)
                total -= size

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def _reduced(path: Path, side: int, digest: str | None) -> bytes:
    try:
        data = image_bytes(path, digest)
        if data is None:
            raise NotFound("the file is not the image that was ingested")
        picture = decode_bytes(data)
    except (OSError, InvalidInput, MemoryError) as error:
        raise NotFound("the image cannot be decoded") from error
    picture.thumbnail((side, side))
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=80 if side > 96 else 60, method=2)
    return encoded.getvalue()
