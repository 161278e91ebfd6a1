"""Compressed files are refused with the command that unpacks them: no reader here reads them in place."""

from __future__ import annotations

from pathlib import Path

from qrp_store.errors import InvalidInput

_SIGNATURES = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"PK\x03\x04", "zip", "unzip"),
)
_ZIP_BASED = (".npz", ".pt", ".pth")
_SPREADSHEETS = (".xlsx", ".xlsm", ".ods", ".xls")


def refuse_compressed(path: Path) -> None:
    """Raise InvalidInput for a compressed file or a spreadsheet. Raises OSError for a file that cannot be read."""
    ending = path.suffix.lower()
    if not path.is_file() or ending in _ZIP_BASED:
        return
    if ending in _SPREADSHEETS:
        raise InvalidInput(f"{path}: is a spreadsheet", hint="save the sheet as CSV (UTF-8)")
    with path.open("rb") as file:
        start = file.read(6)
    for signature, name, command in _SIGNATURES:
        if start.startswith(signature):
            raise InvalidInput(f"{path}: is compressed ({name})", hint=f"unpack it first: {command} {path.name}")
