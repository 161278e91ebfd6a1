"""Reading weights from disk: PyTorch and safetensors files, shards with an index, folders, distributed checkpoints.

A file gives containers, tensors and plain values only. Nothing is unpickled beyond a short list of plain types.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, first_line

if TYPE_CHECKING:
    from torch import nn

_OTHER_FRAMEWORKS = frozenset(
    (".npz", ".npy", ".msgpack", ".index", ".meta", ".h5", ".hdf5", ".pb", ".tflite", ".onnx")
)
# In a folder, the first that exists holds the weights.
_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# The records of a DCP folder's metadata, which is a pickle.
_DCP_RECORDS: Mapping[str, Sequence[str]] = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),
}


def read_weights(path: Path) -> object:
    """Return the content of a checkpoint: a file, an index of shards, or a folder with one of them or a DCP checkpoint.

    Raises NotFound (no such file), InvalidInput (another framework, damaged, or needs code to be unpickled).
    """
    place = find_weights(path)
    if place.is_dir():
        return _read_distributed(place)
    if place.name.endswith(".index.json"):
        return _read_shards(place)
    if place.suffix.lower() in _OTHER_FRAMEWORKS:
        raise _other_framework(place)
    if place.suffix.lower() == ".safetensors":
        return _read_safetensors(place)
    return _read_torch(place)


def find_weights(path: Path) -> Path:
    """Return the file (or the DCP folder) with the weights of `path`, which is itself or a folder that holds them."""
    if not path.exists():
        raise NotFound(f"{path}: no such file")
    if not path.is_dir() or (path / ".metadata").is_file():
        return path
    names = [name for name in _WEIGHTS if (path / name).is_file()]
    if names:
        return path / names[0]
    candidates = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"))
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise _other_framework(path)
    raise InvalidInput(
        f"{path}: holds {len(candidates)} files with weights ({', '.join(p.name for p in candidates[:8])})",
        hint="name one of them with --weights",
    )


def _other_framework(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path}: not a PyTorch checkpoint",
        hint="JAX and TensorFlow weights (BYOL, SimCLR) must be converted first; "
        "ONNX and TorchScript have an --arch of their own: onnx/FILE, torchscript/FILE",
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InvalidInput(f"{index}: not an index of shards ({first_line(error)})") from error
    shards = [index.parent / name for name in names]
    for shard in shards:
        if shard.parent != index.parent or not shard.is_file():
            raise InvalidInput(f"{index}: names the shard {shard.name!r}, which is not in its folder")
    return shards


def _read_shards(index: Path) -> object:
    tensors: dict[str, Any] = {}
    for shard in _shards(index):
        content = read_weights(shard)
        if not isinstance(content, Mapping):
            raise InvalidInput(f"{shard}: holds a {type(content).__name__}, expected tensors by name")
        tensors.update(content)
    return tensors


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: damaged .safetensors file ({first_line(error)})") from error


def _plain_types() -> list[Any]:
    """What training scripts store with the tensors: their options, paths and numbers. None of these runs anything."""
    import argparse
    import pathlib

    import numpy as np

    scalar: Any = getattr(np, "_core", np).multiarray.scalar
    paths = [
        (getattr(pathlib, name), f"{module}.{name}")
        for name in ("PurePosixPath", "PosixPath", "PureWindowsPath")
        for module in ("pathlib", "pathlib._local")
    ]
    return [
        argparse.Namespace,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
        *paths,
        *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    ]


def _read_torch(path: Path) -> object:
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals(_plain_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path}: not a PyTorch file, or one that would run code to be read ({_blocked(error)})",
            hint="save the tensors alone: torch.save(model.state_dict(), …); convert JAX and TensorFlow weights",
        ) from error
    except Exception as error:  # a damaged file breaks the reader in many ways
        hint = "TorchScript is --arch torchscript/FILE" if "TorchScript" in str(error) else None
        if path.suffix == ".pt2":
            hint = "programs of torch.export are --arch export/FILE"
        raise InvalidInput(f"{path}: not a PyTorch file, or damaged ({first_line(error)})", hint=hint) from error


def _blocked(error: BaseException) -> str:
    """The line of torch's long message that names what was refused."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line[:200] for line in lines if "GLOBAL" in line or "Unsupported" in line), first_line(error))


def _read_distributed(folder: Path) -> object:
    """The tensors of a torch.distributed.checkpoint folder. Of its pickled metadata only DCP's own records are read."""
    import pickle

    import torch
    from torch.distributed.checkpoint import metadata as records
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name not in _DCP_RECORDS.get(module, ()) and not (
                module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
            ):
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
            return super().find_class(module, name)

    try:
        with (folder / ".metadata").open("rb") as file:
            metadata = Restricted(file).load()
        outside = {info.relative_path for info in metadata.storage_data.values() if "/" in info.relative_path}
        if outside:
            raise InvalidInput(f"{folder}: names the file {min(outside)!r}, which is not in the folder")
        state = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, records.TensorStorageMetadata)
        }
        reader = FileSystemReader(folder)
        reader.read_metadata = lambda *_, **__: metadata  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(state, storage_reader=reader, no_dist=True)
    except InvalidInput:
        raise
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{folder}: its .metadata would run code to be read ({first_line(error)})",
            hint="convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
        ) from error
    except Exception as error:  # a damaged folder breaks the reader in many ways
        raise InvalidInput(f"{folder}: damaged distributed checkpoint ({first_line(error)})") from error
    return state


def folder_config(path: Path) -> dict[str, Any]:
    """The configuration beside weights in a folder: `config.json` of timm or transformers; {} when there is none."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not (path.is_dir() or path.name in _WEIGHTS) or not config.is_file():
        return {}
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InvalidInput(f"{config}: not JSON ({first_line(error)})") from error
    return content if isinstance(content, dict) else {}


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_weights(path: Path) -> str:
    """sha256 (hex) of what `read_weights` reads: of the file, or of the names and digests of several files."""
    place = find_weights(path)
    files: list[Path]
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.is_file())
    elif place.name.endswith(".index.json"):
        files = _shards(place)
    else:
        return digest_file(place)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {digest_file(file)}\n".encode())
    return digest.hexdigest()


def digest_state(model: nn.Module) -> str:
    """sha256 (hex) of a model's tensors: names, types, shapes and numbers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def containers(content: Mapping[str, Any], depth: int = 4) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each mapping of a checkpoint that holds tensors, with its dotted place ("" for the file itself)."""
    from torch import Tensor

    def walk(inner: Mapping[str, Any], place: str, left: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        tensors = {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield place, tensors
        for key, value in inner.items():
            if left and isinstance(key, str) and isinstance(value, Mapping):
                yield from walk(value, f"{place}.{key}" if place else key, left - 1)

    yield from walk(content, "", depth)
