"""Where arrays are kept: from a URL to a root."""

from __future__ import annotations

from qrp_store.arrays.directory import Directory
from qrp_store.arrays.root import Root
from qrp_store.settings import require_path


def open_root(url: str) -> Root:
    """The root at `url`, a directory or s3://bucket/prefix. Nothing is created or looked at."""
    if url.startswith("s3://"):
        from qrp_store.arrays.bucket import Bucket

        return Bucket(url)
    require_path(url, "the arrays' root", "a directory or s3://bucket/prefix, with the keys in AWS_* variables")
    return Directory(url)
