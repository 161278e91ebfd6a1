"""Networks of the user's own code: `python/MODULE:FACTORY`, which is imported and called because the user names it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, NotFound, first_line
from qrp_store.models.network import Architecture, Preprocessing, Request
from qrp_store.models.weight_files import digest_file

_KEYS = frozenset(["image_size", "resize", "interpolation", "mean", "std", "crop_mode"])


def build(request: Request) -> Architecture:
    """Return what FACTORY() makes: a torch module, or a pair of it and a mapping as `Preprocessing` has it.

    MODULE is importable from the working directory too, or a path that ends with .py.
    """
    import torch

    name, colon, factory = request.name.rpartition(":")
    if not colon or not name or not factory:
        raise InvalidInput(
            f"architecture {request.arch!r}", hint="python/MODULE:FACTORY, for instance python/net:build"
        )
    module = _imported(name)
    function = getattr(module, factory, None)
    if not callable(function):
        raise NotFound(f"{request.arch}: module {name} has no callable {factory!r}")
    try:
        made = function()
    except Exception as error:  # the user's code
        raise InvalidInput(
            f"{request.arch}: {factory}() raised {type(error).__name__} ({first_line(error)})"
        ) from error
    model, settings = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not isinstance(model, torch.nn.Module):
        raise InvalidInput(f"{request.arch}: {factory}() returns a {type(model).__name__}, expected a torch.nn.Module")
    source = Path(module.__file__) if getattr(module, "__file__", None) else None
    details: dict[str, Any] = {} if source is None else {"source": digest_file(source)}
    notes = (
        () if settings or request.statistics else ("input statistics: the factory gives none; ImageNet's are taken",)
    )
    return Architecture(
        model,
        (),
        _preprocessing(settings, request),
        name=f"python/{Path(name).stem if name.endswith('.py') else name}:{factory}",
        details=details,
        notes=notes,
    )


def _imported(name: str) -> Any:
    try:
        if name.endswith(".py"):
            path = Path(name).expanduser()
            if not path.is_file():
                raise NotFound(f"{path}: no such file")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
            return module
        folder = str(Path.cwd())
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)
    except NotFound:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise NotFound(
                f"python/{name}: no such module here", hint="run in its folder, or set PYTHONPATH"
            ) from error
        raise InvalidInput(f"python/{name}: cannot be imported ({first_line(error)})") from error
    except Exception as error:  # the user's code
        raise InvalidInput(f"python/{name}: importing raised {type(error).__name__} ({first_line(error)})") from error


def _preprocessing(settings: Any, request: Request) -> Preprocessing:
    if not isinstance(settings, Mapping) or set(settings) - _KEYS:
        raise InvalidInput(
            f"{request.arch}: its preprocessing is {settings!r}", hint=f"a dict with some of {', '.join(sorted(_KEYS))}"
        )
    try:
        side = request.image_size or int(settings.get("image_size", 224))
        usual = Preprocessing(side, int(settings.get("resize", round(side * 256 / 224))), "bilinear")
        return Preprocessing(
            side,
            usual.resize,
            str(settings.get("interpolation", usual.interpolation)),
            tuple(float(v) for v in settings.get("mean", usual.mean)),  # type: ignore[arg-type]
            tuple(float(v) for v in settings.get("std", usual.std)),  # type: ignore[arg-type]
            str(settings.get("crop_mode", usual.crop_mode)),
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{request.arch}: its preprocessing cannot be read ({first_line(error)})") from error
