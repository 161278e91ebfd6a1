"""A pretend GPU, for testing CUDA code on a machine without a card: `pytest -p pretend_gpu` with tests/ on PYTHONPATH.

Tensors say that they are on cuda:0 and keep their numbers apart from the host's. The rules of CUDA hold:

- tensors of two devices cannot be mixed; a device tensor cannot become a numpy array;
- fresh memory holds garbage (NaN, or a large negative integer), so that a read before the first write shows;
- copies from pinned memory happen as late as their stream allows, so that a missing wait shows;
- a recorded graph replays its operations on the same memory, and refuses to record what waits for the device;
- memory is bounded: an allocation beyond it raises torch.OutOfMemoryError.

`counts` holds kernels, copies, bytes and waits; `waits` where in the package each wait was. Speed is that of the CPU.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
MEMORY = 80 << 30

counts: Counter[str] = Counter()
waits: Counter[str] = Counter()

_WAITING = frozenset(
    """
    aten::_local_scalar_dense aten::nonzero aten::equal aten::masked_select aten::_unique2 aten::bincount
    aten::is_nonzero
    aten::unique_consecutive aten::unique_dim
    """.split()  # noqa: SIM905
)
_VIEWS = frozenset(
    """
    aten::view aten::slice aten::split aten::unbind aten::t aten::transpose aten::unsqueeze aten::squeeze aten::expand
    aten::select aten::unfold aten::split_with_sizes aten::_unsafe_view aten::as_strided aten::alias aten::detach
    aten::permute aten::_reshape_alias aten::diagonal aten::lift_fresh
    """.split()  # noqa: SIM905
)
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


def reset() -> None:
    """Forget the counts so far."""
    counts.clear()
    waits.clear()


def _place() -> str:
    """The innermost line of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if "/qrp_store/" in frame.filename:
            return f"{frame.filename.rpartition('/qrp_store/')[2]}:{frame.lineno}"
    return "outside"


def _wait(reason: str) -> None:
    """Count a wait of the host for the device; an error while a graph is recorded."""
    if _recording.tape is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({reason}) at {_place()}")
    counts["waits"] += 1
    waits[f"{_place()} {reason}"] += 1


class Memory:
    """How many bytes live tensors hold, and how many they may hold."""

    def __init__(self) -> None:
        self.limit, self.held, self.peak = MEMORY, 0, 0
        self._known: set[int] = set()

    def take(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        if self.held + size > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size:,} bytes on the pretend GPU")
        self._known.add(address)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._give, address, size)

    def _give(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.held -= size


memory = Memory()


@contextlib.contextmanager
def bounded(free: int) -> Iterator[None]:
    """Bound the GPU's memory to so many bytes more than tensors hold now."""
    gc.collect()
    before, memory.limit = memory.limit, memory.held + free
    try:
        yield
    finally:
        memory.limit = before


class Stream:
    """Work in order. Copies from pinned memory wait here until something needs them."""

    def __init__(self, device: object = None, priority: int = 0, **_: Any) -> None:
        self.late: list[tuple[int, Callable[[], object]]] = []
        self.device = CUDA

    def flush(self, until: int | None = None) -> None:
        while self.late and (until is None or self.late[0][0] <= until):
            self.late.pop(0)[1]()

    def wait_stream(self, other: Stream) -> None:
        other.flush()

    def wait_event(self, event: Event) -> None:
        event.happen()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        _wait("stream.synchronize")
        self.flush()


class Event:
    """A moment in a stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.at: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        _clock.tick += 1
        self.at = (stream or current_stream(), _clock.tick)

    def happen(self) -> None:
        if self.at is not None:
            self.at[0].flush(self.at[1])

    def synchronize(self) -> None:
        if _recording.tape is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing (event.synchronize)")
        counts["event waits"] += 1
        self.happen()

    def query(self) -> bool:
        self.happen()
        return True


class _Clock:
    tick = 0


class _Recording:
    tape: list[Any] | None = None


_clock, _recording, _threads = _Clock(), _Recording(), threading.local()
_default = Stream()
_pinned: set[int] = set()


def current_stream(device: object = None) -> Stream:
    return getattr(_threads, "stream", None) or _default


@contextlib.contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    before, _threads.stream = current_stream(), stream
    try:
        yield
    finally:
        _threads.stream = before


def synchronize(device: object = None) -> None:
    _wait("synchronize")
    current_stream().flush()
    _default.flush()


class CUDAGraph:
    """Operations recorded once and replayed on the same memory."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.tape: list[Any] = []

    def replay(self) -> None:
        counts["replays"] += 1
        counts["kernels replayed"] += sum(function._schema.name not in _VIEWS for function, *_ in self.tape)
        for function, args, kwargs, outputs in self.tape:
            again = function(*args, **kwargs)
            for new, old in zip(tree_flatten(again)[0], tree_flatten(outputs)[0], strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class graph:
    """Record what is launched inside."""

    def __init__(self, recorded: CUDAGraph, pool: object = None, stream: object = None, **_: Any) -> None:
        self.recorded, self.stream = recorded, on_stream(Stream())

    def __enter__(self) -> None:
        synchronize()
        self.stream.__enter__()
        _recording.tape = []

    def __exit__(self, *error: Any) -> None:
        self.recorded.tape, _recording.tape = _recording.tape or [], None
        self.stream.__exit__(*error)


class DeviceTensor(torch.Tensor):
    """A tensor on cuda:0; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        memory.take(held)
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(function, args, kwargs or {})

    def record_stream(self, stream: object) -> None:
        counts["record_stream"] += 1

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def is_pinned(self, device: object = None) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held!r})"


def _poisoned(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype.is_floating_point:
        return tensor.fill_(float("nan"))
    return tensor.fill_(-(1 << 30)) if tensor.dtype in (torch.int32, torch.int64) else tensor


def _to_host(value: Any) -> Any:
    """The same structure with the numbers in place of device tensors."""
    return tree_map(lambda x: x.held if isinstance(x, DeviceTensor) else x, value)


def _launch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the numbers, after checking what a GPU would refuse."""
    if torch.is_inference_mode_enabled():  # composed operations arrive whole there
        result = function.decompose(*args, **kwargs) if function._can_decompose() else NotImplemented
        if result is not NotImplemented:
            return result
    base = function._schema.name
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    device = [x for x in tensors if isinstance(x, DeviceTensor)]
    host = [x for x in tensors if not isinstance(x, DeviceTensor)]
    if base in ("aten::copy_", "aten::_to_copy") and (host or _target(kwargs) == "cpu"):
        return _copy(function, base, args, kwargs)
    _check_devices(base, host)
    _count_waits(base, device, kwargs)
    if base not in _VIEWS:  # a view launches nothing
        if "empty" not in base:
            counts["kernels"] += 1
        current_stream().flush()
    on_cpu = {k: (torch.device("cpu") if k == "device" and v is not None else v) for k, v in kwargs.items()}
    real = _to_host(args), _to_host(on_cpu)
    result = function(*real[0], **real[1])
    if "empty" in base:
        _poisoned(result)
    elif _recording.tape is not None:
        _recording.tape.append((function, *real, result))
    given = {id(x.held): x for x in device}  # an operation in place returns the tensor it was given
    ordinary = base in _VIEWS and not any(x.is_inference() for x in device)  # views are of their base's kind

    def wrapped(x: Any) -> Any:
        return (given[id(x)] if id(x) in given else DeviceTensor(x)) if isinstance(x, torch.Tensor) else x

    with torch.inference_mode(False) if ordinary else contextlib.nullcontext():
        return tree_map(wrapped, result)


def _target(kwargs: dict[str, Any]) -> str | None:
    target = kwargs.get("device")
    return None if target is None else torch.device(target).type


def _copy(function: Any, base: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """A copy between host and device, in either direction."""
    into, stream = args[0], current_stream()
    if base == "aten::copy_" and isinstance(into, DeviceTensor):
        source = args[1]
        counts["copies to device"] += 1
        counts["bytes to device"] += source.numel() * source.element_size()
        in_time = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if in_time and source.untyped_storage().data_ptr() in _pinned:
            _clock.tick += 1
            stream.late.append((_clock.tick, lambda: into.held.copy_(source)))
        else:
            if source.numel() > 1:
                _wait("copy from pageable memory")
            stream.flush()
            into.held.copy_(source)
        return into
    counts["copies to host"] += 1
    counts["bytes to host"] += args[0].numel() * args[0].element_size()
    _wait("copy to host")
    stream.flush()
    on_cpu = {k: (torch.device("cpu") if k == "device" and v is not None else v) for k, v in kwargs.items()}
    return function(*_to_host(args), **_to_host(on_cpu))


def _check_devices(base: str, host: list[torch.Tensor]) -> None:
    if any(x.dim() > 0 for x in host):
        if base not in _INDEXING:
            message = "Expected all tensors to be on the same device, found cuda:0 and cpu"
            raise RuntimeError(f"{message} ({base}) at {_place()}")
        _wait("index from the host")
    if host and _recording.tape is not None:
        raise RuntimeError(f"a recorded graph reads a tensor of the host ({base}) at {_place()}")


def _count_waits(base: str, device: list[DeviceTensor], kwargs: dict[str, Any]) -> None:
    if base in _WAITING:
        _wait(base)
    if base == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        _wait("repeat_interleave without output_size")
    if base in _INDEXING and any(x.dtype in (torch.bool, torch.uint8) for x in device[1:]):
        _wait("index by truth values")


def _empty(size: Any, **kwargs: Any) -> DeviceTensor:
    kept = {k: v for k, v in kwargs.items() if k in ("dtype", "layout", "memory_format")}
    return DeviceTensor(_poisoned(torch.ops.aten.empty.memory_format(list(size), device="cpu", **kept)))


def _empty_strided(size: Any, stride: Any, **kwargs: Any) -> DeviceTensor:
    made = torch.ops.aten.empty_strided.default(list(size), list(stride), dtype=kwargs.get("dtype"), device="cpu")
    return DeviceTensor(_poisoned(made))


_library: torch.library.Library | None = None


def install() -> None:
    """Let torch believe that there is one GPU, for the rest of this process."""
    global _library
    if _library is not None:
        return
    torch._C._ensureCUDADeviceGuardSet()  # without a driver torch's guards of the device do nothing
    _library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _library.impl("empty.memory_format", _empty, "CUDA")
        _library.impl("empty_strided", _empty_strided, "CUDA")
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.backends.cudnn.enabled = False
    _replace_cuda()
    _replace_factories()


def _replace_cuda() -> None:
    """The functions of torch.cuda that need a driver."""
    cuda: Any = torch.cuda
    cuda._lazy_init = lambda: None
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.device = lambda device: contextlib.nullcontext()
    cuda.Stream, cuda.Event, cuda.CUDAGraph, cuda.graph = Stream, Event, CUDAGraph, graph
    cuda.current_stream, cuda.stream, cuda.synchronize = current_stream, on_stream, synchronize
    cuda.mem_get_info = lambda device=None: (memory.limit - memory.held, memory.limit)
    cuda.memory_reserved = cuda.memory_allocated = lambda device=None: memory.held
    cuda.max_memory_allocated = lambda device=None: memory.peak
    cuda.get_device_name = lambda *_: "pretend"
    cuda.empty_cache = lambda: None


def _replace_factories() -> None:
    """Functions that make a tensor from host data before the dispatcher sees a device."""
    module: Any = torch
    real = {name: getattr(torch, name) for name in ("empty", "tensor", "as_tensor", "arange")}
    moved = torch.Tensor.to

    def on_host(device: Any) -> bool:
        return device is None or torch.device(device).type == "cpu"

    def empty(*size: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = real["empty"](*size, **kwargs)
        if pin_memory:
            _pinned.add(made.untyped_storage().data_ptr())
            counts["pinned bytes"] += made.numel() * made.element_size()
        return made

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        if isinstance(data, DeviceTensor):
            return data.clone()
        made = real["tensor"](data, dtype=dtype, **kwargs)
        return made if on_host(device) else made.to(device)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Any:
        made = real["as_tensor"](data, dtype=dtype)
        return made if device is None else made.to(device)

    def arange(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        made = real["arange"](*args, **kwargs)
        if on_host(device):
            return made
        counts["kernels"] += 1
        return DeviceTensor(made)

    def with_index(value: Any) -> Any:
        named = isinstance(value, (str, torch.device)) and torch.device(value).type == "cuda"
        return CUDA if named else value

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return moved(self, *map(with_index, args), **{k: with_index(v) for k, v in kwargs.items()})

    module.empty, module.tensor, module.as_tensor, module.arange = empty, tensor, as_tensor, arange
    torch.Tensor.to = to  # type: ignore[method-assign, assignment]


def pytest_configure() -> None:
    """As a plugin: before any test module asks whether there is a GPU."""
    install()
