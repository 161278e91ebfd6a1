"""Image towers of open_clip: `open_clip/NAME` with --weights FILE, or `open_clip/FOLDER` as open_clip saves it."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models.network import Architecture, Preprocessing, Request, not_downloaded, unknown
from qrp_store.models.weight_files import digest_weights

_CROPS = {"shortest": "center", "squash": "squash", "longest": "border"}
_CONFIG = "open_clip_config.json"


def build(request: Request) -> Architecture:
    """Return the image tower of an open_clip model; its vector is what `encode_image` gives."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open_clip
    except ImportError as error:
        raise Unavailable(
            f"open_clip/… needs open_clip ({error})", hint="pip install 'qrp-store[open-clip]'"
        ) from error
    folder = Path(request.name).expanduser()
    if folder.is_dir():
        return _of_folder(open_clip, folder, request)
    name, _, tag = request.name.partition(":")
    if name not in open_clip.list_models():
        raise unknown(request.arch, [f"open_clip/{known}" for known in open_clip.list_models()])
    if request.published and not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise InvalidInput(
            f"{request.arch}: which weights?",
            hint=f"--weights FILE, or open_clip/{name}:TAG to download; tags: {', '.join(tags) or 'none'}",
        )
    model = _created(open_clip, name, tag if request.published else None, request)
    return _tower(open_clip, model, request, f"open_clip/{name}", tag or None)


def _created(open_clip: Any, name: str, tag: str | None, request: Request) -> Any:
    options = {"force_image_size": request.image_size} if request.image_size else {}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip says on the root logger that weights are random
    try:
        return open_clip.create_model(name, pretrained=tag, load_weights=tag is not None, **options)
    except Exception as error:  # the download goes through several libraries with errors of their own
        if tag is None:
            raise InvalidInput(f"open_clip/{name} cannot be built ({first_line(error)})") from error
        raise not_downloaded(f"open_clip/{name}:{tag}", error) from error
    finally:
        logging.disable(before)


def _of_folder(open_clip: Any, folder: Path, request: Request) -> Architecture:
    from qrp_store.models.checkpoints import load_state

    if not (folder / _CONFIG).is_file():
        raise NotFound(f"{folder}: has no {_CONFIG}", hint="open_clip/NAME with --weights FILE")
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        model_config, inputs = content["model_cfg"], content.get("preprocess_cfg", {})
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder / _CONFIG}: cannot be read ({first_line(error)})") from error
    options = {"force_image_size": request.image_size} if request.image_size else {}
    name = "qrp-store-folder"
    configs = open_clip.factory._MODEL_CONFIGS
    configs[name] = model_config
    try:
        model = open_clip.create_model(name, pretrained=None, load_weights=False, **options)
    except Exception as error:
        raise InvalidInput(f"{folder}: open_clip cannot build its model ({first_line(error)})") from error
    finally:
        configs.pop(name, None)
    identity = None
    if request.published:
        load_state(folder, model.visual, "open-clip", interpolate=request.interpolate)
        identity = {"kind": "folder", "name": None, "sha256": digest_weights(folder)}
    built = _tower(open_clip, model, request, "open_clip/FOLDER", None, inputs)
    return Architecture(
        built.model, (), built.preprocessing, identity=identity, name=built.name, details={"model": model_config}
    )


def _tower(
    open_clip: Any, model: Any, request: Request, name: str, tag: str | None, inputs: Any = None
) -> Architecture:
    settings = {**open_clip.get_model_preprocess_cfg(model), **(inputs or {})}
    size = settings["size"]
    side = request.image_size or int(size if isinstance(size, int) else size[0])
    preprocessing = Preprocessing(
        side,
        side,
        settings.get("interpolation", "bicubic"),
        tuple(settings["mean"]),
        tuple(settings["std"]),
        _CROPS.get(settings.get("resize_mode", "shortest"), "center"),
    )
    return Architecture(model.visual, (), preprocessing, tag, name=name)
