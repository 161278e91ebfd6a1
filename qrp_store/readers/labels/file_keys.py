"""Keys of a dataset from the paths and addresses that label files have: absolute paths, URLs, uploads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import Source
from qrp_store.samples import shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_UPLOAD = re.compile(r"(?:^|/)upload/(?:[^/]+/)?[0-9a-f]{8}-(?=.)")


@dataclass
class FileKeys:
    """Turns a path into the key that it ends with, when the dataset has such a key; a path that is one stays.

    A path of which no end is a key is returned as it is; of a URL, what follows the last slash.
    """

    source: Source
    _keys: frozenset[str] | None = None
    _path_of: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """Return the key for a path or URL. Raises InvalidInput for two paths that end with one key."""
        if self._keys is None:
            self._keys = frozenset(self.source.keys)
        if path in self._keys:
            return self._once(path, path)
        plain, is_url = _plain(path)
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            key = "/".join(parts[start:])
            if key in self._keys:
                return self._once(key, path)
        return parts[-1] if is_url and parts else path

    def _once(self, key: str, path: str) -> str:
        first = self._path_of.setdefault(key, path)
        if first != path:
            raise InvalidInput(
                f"{self.source}: {shown(first)} and {shown(path)} both end with the key {shown(key)}",
                hint="ingest the images with their folders in the keys, or leave one of the two out",
            )
        return key


def is_elsewhere(path: str) -> bool:
    """Return whether a path is a URL, of Windows, or Label Studio's: of another place than the images' folder."""
    return "://" in path or "\\" in path or "?d=" in path or _UPLOAD.search(path) is not None


def _plain(path: str) -> tuple[str, bool]:
    """Return a path with slashes, without scheme, query and Label Studio's prefix of uploads; whether it is a URL."""
    is_url = _SCHEME.match(path) is not None
    if is_url:
        path = unquote(urlsplit(path).path)
    elif path.startswith("/data/") and "?" in path:  # Label Studio's local files: /data/local-files/?d=photos/1.jpg
        path = unquote(path.partition("?d=")[2] or path)
    path = path.replace("\\", "/")
    upload = _UPLOAD.search(path)
    return (path[upload.end() :], True) if upload else (path, is_url)
