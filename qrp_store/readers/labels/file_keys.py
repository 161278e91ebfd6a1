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
    """Turns the path of an image into its key in the dataset.

    That is the path, else the end of it that is a key, else the one key that ends with the path. A path that is none of
    these is returned as it is; of a URL, what follows the last slash. With `stems`, endings like .jpg are left out of
    the comparison, and paths have none.
    """

    source: Source
    stems: bool = False
    _keys: dict[str, str] | None = None
    _ends: dict[str, list[str]] = field(default_factory=dict)
    _path_of: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """Return the key for a path or URL. Raises InvalidInput for two paths that end with one key."""
        keys = self._known()
        if path in keys:
            return self._once(keys[path], path)
        plain, is_url = _plain(path)
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in keys:
                return self._once(keys[end], path)
        longer = (
            [name for name in self._ends.get(parts[-1], ()) if name.endswith("/" + "/".join(parts))] if parts else []
        )
        if len(longer) == 1:
            return self._once(keys[longer[0]], path)
        return parts[-1] if is_url and parts else path

    def _known(self) -> dict[str, str]:
        """Return the keys by the name that is compared. A stem that several keys share is left out."""
        if self._keys is None:
            self._keys, twice = {}, set()
            for key in self.source.keys:
                name = stem(key) if self.stems else key
                if self._keys.setdefault(name, key) != key:
                    twice.add(name)
                self._ends.setdefault(name.rpartition("/")[2], []).append(name)
            for name in twice:
                del self._keys[name]
        return self._keys

    def _once(self, key: str, path: str) -> str:
        first = self._path_of.setdefault(key, path)
        if first != path:
            raise InvalidInput(
                f"{self.source}: {shown(first)} and {shown(path)} both end with the key {shown(key)}",
                hint="ingest the images with their folders in the keys, or leave one of the two out",
            )
        return key


def stem(path: str) -> str:
    """Return a path without the ending of its last part."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


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
