"""Where arrays are kept: from a URL to a root."""

from __future__ import annotations

from qrp_store.arrays.directory import Directory
from qrp_store.arrays.root import Root
from qrp_store.errors import InvalidInput
from qrp_store.settings import redact


def open_root(url: str) -> Root:
    """The root at `url`, a directory or s3://bucket/prefix. Nothing is created or looked at."""
    if url.startswith("s3://"):
        from qrp_store.arrays.bucket import Bucket

        return Bucket(url)
    if "://" in url:
        raise InvalidInput(f"arrays root {redact(url)!r}: expected a directory or s3://bucket/prefix")
    return Directory(url)
