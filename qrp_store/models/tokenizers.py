"""The files of a text tower's tokenizer: where they are, and their identity."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qrp_store.models.weight_files import digest_file

# The files that decide which tokens a text becomes.
_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_SETTINGS = frozenset(["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])


def tokenizer_files(folder: Path) -> list[Path]:
    """Return a folder's tokenizer files; none when it has settings alone."""
    files = [folder / name for name in _NAMES if (folder / name).is_file()]
    return files if any(file.name not in _SETTINGS for file in files) else []


def digest_tokenizer(folder: Path) -> str:
    """Return the sha256 (hex) of the names and bytes of a folder's tokenizer files."""
    digest = hashlib.sha256()
    for file in tokenizer_files(folder):
        digest.update(f"{file.name} {digest_file(file)}\n".encode())
    return digest.hexdigest()


def local_folder(name: str) -> Path | None:
    """Return the folder of that path, or of that Hugging Face model in the local cache. Never downloads."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # the hub's client has many errors for a name that is not in the cache
        return None
