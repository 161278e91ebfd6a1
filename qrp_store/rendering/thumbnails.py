"""Pictures small enough that thousands of them fit into one page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from qrp_store.images import digest_of, preview
from qrp_store.rendering.content import Picture

SIDE = 96
MAX_BYTES = 22_000_000
"""Of all thumbnails of a page together, as text."""
LARGEST_FILE = 256 << 20
_QUALITY = 60
_AT_ONCE = 64


def below(root: Path, key: str) -> Path | None:
    """The file that a key names strictly below a folder; None for any other place, and when it is no plain file."""
    try:
        path = (root / key).resolve()
        inside = path.is_relative_to(root.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds what no file's name may
        return None
    return path if inside else None


def image_bytes(path: Path, digest: str | None) -> bytes | None:
    """The bytes of an image file; None when it is larger than LARGEST_FILE, or has another digest than a given one.

    Raise OSError when it cannot be read.
    """
    if path.stat().st_size > LARGEST_FILE:
        return None
    data = path.read_bytes()
    return data if digest is None or digest_of(data) == digest else None


def thumbnail(path: Path, digest: str | None = None) -> str | None:
    """The whole picture of a file as a data: URI, its longer side SIDE pixels.

    None when it cannot be read or, where a `digest` is given, has another one.
    """
    try:
        data = image_bytes(path, digest)
        if data is None:
            return None
        flat = preview(data, SIDE)
        encoded = io.BytesIO()
        flat.save(encoded, "WEBP", quality=_QUALITY, method=2)
    except Exception:  # a damaged file can break its decoder in any way; the page goes on without it
        return None
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")


def pictures(
    root: Path,
    keys: Sequence[str],
    *,
    threads: int,
    digests: Mapping[str, str] | None = None,
    most: int = MAX_BYTES,
    seen: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Picture], list[str]]:
    """Thumbnails of these keys' files, in their order until `most` bytes are reached, and the keys that have none.

    `digests`, by key: show only files that have theirs. None: show any. `seen` is called once a key.
    """
    made: dict[str, Picture] = {}
    failed: list[str] = []
    size = 0

    def make(key: str) -> str | None:
        path = below(root, key)
        if path is None or (digests is not None and key not in digests):
            return None
        return thumbnail(path, None if digests is None else digests[key])

    left = iter(dict.fromkeys(keys))
    with ThreadPoolExecutor(threads) as pool:
        while size < most and (batch := list(islice(left, _AT_ONCE))):
            for key, uri in zip(batch, pool.map(make, batch), strict=True):
                seen()
                if uri is None:
                    failed.append(key)
                elif size + len(uri) <= most:
                    made[key] = Picture(key, uri)
                    size += len(uri)
    return made, failed
