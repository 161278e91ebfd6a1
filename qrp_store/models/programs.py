"""Networks saved as programs: TorchScript, torch.export and ONNX. They are loaded only under their own prefix.

A program says nothing of its preprocessing: ImageNet's usual one is taken unless the user says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models.network import Architecture, Preprocessing, Request
from qrp_store.models.weight_files import digest_file

if TYPE_CHECKING:
    import torch

_SIDE = 224


def build_torchscript(request: Request) -> Architecture:
    """Return the program of a TorchScript file."""
    import torch

    path = _file(request)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive breaks the reader in many ways
        raise InvalidInput(f"{path}: not a TorchScript file, or damaged ({first_line(error)})") from error

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = model

        def forward(self, pixels: torch.Tensor) -> Any:
            return self.program(pixels)

    return _architecture(request, path, Program(), None)


def build_export(request: Request) -> Architecture:
    """Return the program of a torch.export file. One with a batch of 1 runs image by image."""
    import torch

    path = _file(request)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
            module = exported.module()
    except Exception as error:  # a damaged archive breaks the reader in many ways
        raise InvalidInput(f"{path}: not a file of torch.export, or damaged ({first_line(error)})") from error
    names = exported.graph_signature.user_inputs
    shapes = [node.meta["val"].shape for node in exported.graph.nodes if node.name in names]
    batch, side = _input(path, [list(shape) for shape in shapes])
    if batch not in (None, 1):
        raise _fixed_batch(path, batch)

    class Program(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> Any:
            if batch is None:
                return module(pixels)
            return torch.cat([module(pixel.unsqueeze(0)) for pixel in pixels])

        def train(self, mode: bool = True) -> Program:
            return self  # an exported program has no training mode

    return _architecture(request, path, Program(), side)


def build_onnx(request: Request) -> Architecture:
    """Return an ONNX model, run by onnxruntime. `--layer` chooses one of several outputs."""
    import torch

    path = _file(request)
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable(f"onnx/… needs onnxruntime ({error})", hint="pip install 'qrp-store[onnx]'") from error
    session = _session(onnxruntime, path)
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    batch, side = _input(path, [list(value.shape) for value in inputs])
    if batch is not None:
        raise _fixed_batch(path, batch)
    last = inputs[0].shape[1] != 3 and inputs[0].shape[3] == 3
    half = inputs[0].type == "tensor(float16)"

    class Named(torch.nn.Module):
        """One output of the model: what `--layer` names."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = torch.nn.ModuleList(Named() for _ in outputs)

        def forward(self, pixels: torch.Tensor) -> Any:
            array = (pixels.permute(0, 2, 3, 1) if last else pixels).contiguous().cpu()
            array = array.half() if half else array.float()
            values = session.run(None, {inputs[0].name: array.numpy()})
            made = [place(torch.from_numpy(value)) for place, value in zip(self.places, values, strict=True)]
            return made[0] if len(made) == 1 else tuple(made)

        def get_submodule(self, target: str) -> torch.nn.Module:
            return self.places[outputs.index(target)] if target in outputs else super().get_submodule(target)

    return _architecture(request, path, Program(), side, tuple(outputs))


def _session(onnxruntime: Any, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the workers are the threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of error for each way to fail
        raise InvalidInput(f"{path}: onnxruntime cannot load it ({first_line(error)})") from error


def _input(path: Path, shapes: Sequence[Sequence[Any]]) -> tuple[int | None, int | None]:
    """The fixed batch and the fixed side of a program's one input; None where they may vary."""
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InvalidInput(f"{path}: takes {len(shapes)} inputs {shapes}, expected one batch of images (n, 3, h, w)")
    batch, *rest = (size if type(size) is int else None for size in shapes[0])
    if 3 not in (rest[0], rest[2], *([3] if rest[0] is None else [])):
        raise InvalidInput(f"{path}: takes images {shapes[0]}, expected three channels")
    sides = rest[:2] if rest[2] == 3 and rest[0] != 3 else rest[1:]
    if sides[0] != sides[1]:
        raise InvalidInput(f"{path}: takes images of {sides[0]} × {sides[1]} pixels, expected a square")
    return batch, sides[0]


def _fixed_batch(path: Path, batch: int | None) -> InvalidInput:
    return InvalidInput(
        f"{path}: takes batches of exactly {batch}", hint="export it with a dynamic batch axis (dynamic_shapes)"
    )


def _file(request: Request) -> Path:
    path = Path(request.name).expanduser()
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    if request.weights == "random":
        raise InvalidInput(f"{request.arch} has its own weights", hint="leave out --weights")
    return path


def _architecture(
    request: Request, path: Path, model: torch.nn.Module, side: int | None, outputs: tuple[str, ...] | None = ()
) -> Architecture:
    if side is not None and request.image_size not in (None, side):
        raise InvalidInput(f"{path}: takes images of {side} pixels, not {request.image_size}")
    size = request.image_size or side or _SIDE
    notes = () if request.statistics else ("input statistics: a program does not say them; ImageNet's are taken",)
    return Architecture(
        model,
        (),
        Preprocessing(size, round(size * 256 / 224), "bilinear"),
        identity={"kind": "file", "name": None, "sha256": digest_file(path)},
        name=request.arch.partition("/")[0],
        outputs=outputs,
        notes=notes,
    )
