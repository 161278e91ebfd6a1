"""Paths that a store makes below its arrays' root: what somebody else put there is recognised and left alone."""

from __future__ import annotations

import re

from qrp_store.arrays.root import PARTIAL
from qrp_store.records import PREFIX

_FOLDER = "|".join(f"{kind}/{prefix}" for kind, prefix in PREFIX.items() if kind not in ("dataset", "backbone"))
_ARTIFACT = re.compile(
    rf"(?P<artifact>({_FOLDER})-[0-9a-f]{{8,32}})/e[0-9]+/"
    r"(zarr\.json|kmeans\.npz|([a-z_]+/)?([a-z_]+/)?(zarr\.json|c(/[0-9]+)+))"
)
_PROBE = re.compile(r"doctor/[0-9a-f]{12}/(a|race|speed)")
_TEMPORARY = re.compile(rf"{re.escape(PARTIAL)}[0-9]+-[0-9a-f]{{12}}")
_OBJECT_FOLDER = re.compile(rf"(({_FOLDER})-[0-9a-f]{{8,32}}/e[0-9]+|doctor/[0-9a-f]{{12}})(/.*)?")


def artifact_folder(path: str) -> str | None:
    """KIND/ID of the artifact that an object of the store's own shape belongs to, else None."""
    match = _ARTIFACT.fullmatch(path)
    return match["artifact"] if match else None


def is_probe(path: str) -> bool:
    """Whether `doctor` wrote this object."""
    return _PROBE.fullmatch(path) is not None


def is_temporary(folder: str, name: str) -> bool:
    """Whether a file is one that `Directory.put` writes before it publishes an object below `folder`."""
    ours = folder in ("", ".") or _OBJECT_FOLDER.fullmatch(folder) is not None
    return ours and _TEMPORARY.fullmatch(name) is not None
