"""Models of open_clip: `open_clip/NAME` with --weights FILE, or `open_clip/FOLDER` as open_clip saves it.

`build` gives the image tower alone, for a backbone; `build_pair` both towers, for a zero-shot expert.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models.network import (
    Architecture,
    Pair,
    Preprocessing,
    Request,
    normalised,
    not_downloaded,
    unknown,
)
from qrp_store.models.tokenizers import digest_tokenizer, local_folder, tokenizer_files
from qrp_store.models.weight_files import digest_weights, read_weights

_CROPS = {"shortest": "center", "squash": "squash", "longest": "border"}
_CONFIG = "open_clip_config.json"


def build(request: Request) -> Architecture:
    """Return the image tower of an open_clip model; its vector is what `encode_image` gives."""
    built = _whole(request)
    identity = None
    if built.folder is not None and request.published:
        from qrp_store.models.checkpoints import load_state

        load_state(built.folder, built.model.visual, "open-clip", interpolate=request.interpolate)
        identity = {"kind": "folder", "name": None, "sha256": digest_weights(built.folder)}
    return Architecture(
        built.model.visual,
        (),
        _preprocessing(built, request),
        built.tag,
        identity=identity,
        name=built.name,
        details={} if built.folder is None else {"model": built.config},
    )


def build_pair(request: Request) -> Pair:
    """Return both towers of an open_clip model. Raises as `build` does, and NotFound without the text's tokenizer."""
    built = _whole(request)
    if built.folder is not None and request.published:
        from qrp_store.models.checkpoints import load_state

        content = read_weights(built.folder)
        load_state(built.folder, built.model, whole=True, content=_renamed(built.model, content))
    settings = _preprocessing(built, request)
    resize = Architecture(built.model.visual, (), settings).resize()
    tokenizer, identity = _tokenizer(built)

    def image(pixels: Any) -> Any:
        return built.model.encode_image(normalised(pixels, settings.mean, settings.std))

    def text(texts: list[str], device: str) -> Any:
        return built.model.encode_text(tokenizer(texts).to(device))

    return Pair(
        built.name,
        built.model,
        settings.document(),
        identity,
        resize,
        image,
        text,
        lambda content: _renamed(built.model, content),
    )


@dataclass(frozen=True)
class _Whole:
    """A model with both towers. `folder`: where its configuration comes from; `inputs`: what that says of images."""

    library: Any
    model: Any
    name: str
    config: Mapping[str, Any]
    tag: str | None = None
    folder: Path | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)


def _whole(request: Request) -> _Whole:
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
    return _Whole(open_clip, model, f"open_clip/{name}", open_clip.get_model_config(name), tag or None)


def _created(open_clip: Any, name: str, tag: str | None, request: Request) -> Any:
    options = {"force_image_size": request.image_size} if request.image_size else {}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip warns on the root logger that weights are random
    try:
        return open_clip.create_model(name, pretrained=tag, load_weights=tag is not None, **options)
    except Exception as error:  # the download goes through several libraries with errors of their own
        if tag is None:
            raise InvalidInput(f"open_clip/{name} cannot be built ({first_line(error)})") from error
        raise not_downloaded(f"open_clip/{name}:{tag}", error) from error
    finally:
        logging.disable(before)


def _of_folder(open_clip: Any, folder: Path, request: Request) -> _Whole:
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
    return _Whole(open_clip, model, "open_clip/FOLDER", model_config, None, folder, inputs)


def _preprocessing(built: _Whole, request: Request) -> Preprocessing:
    settings = {**built.library.get_model_preprocess_cfg(built.model), **built.inputs}
    size = settings["size"]
    side = request.image_size or int(size if isinstance(size, int) else size[0])
    return Preprocessing(
        side,
        side,
        settings.get("interpolation", "bicubic"),
        tuple(settings["mean"]),
        tuple(settings["std"]),
        _CROPS.get(settings.get("resize_mode", "shortest"), "center"),
    )


def _renamed(model: Any, content: Any) -> Any:
    """Name the text tower's tensors as models with a text tower of its own do, where the file has them at its root."""
    from open_clip.model import convert_to_custom_text_state_dict

    state = content.get("state_dict", content)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    older = hasattr(model, "text") and "text_projection" in state
    return convert_to_custom_text_state_dict(state) if older else content


def _tokenizer(built: _Whole) -> tuple[Any, dict[str, Any]]:
    """Return the text tower's tokenizer and its identity. Raises NotFound when its files are not on this machine."""
    text = built.config.get("text_cfg", {})
    length = text.get("context_length", 77)
    options = dict(text.get("tokenizer_kwargs", {}))
    tokenizer = text.get("hf_tokenizer_name", "")
    if not tokenizer:
        from open_clip.tokenizer import SimpleTokenizer

        simple = SimpleTokenizer(context_length=length, **options)
        return simple, {"tokenizer": "open_clip's", "context_length": length, **options}
    folder = built.folder or local_folder(tokenizer)
    if folder is None or not tokenizer_files(folder):
        where = "in the folder" if built.folder else "on this machine"
        raise NotFound(
            f"{built.name}: its tokenizer, {tokenizer}, is not {where}",
            hint=f"copy its files into {built.folder}" if built.folder else f"hf download {tokenizer}",
        )
    from open_clip.tokenizer import HFTokenizer

    mode = text.get("tokenizer_mode")
    try:
        made = HFTokenizer(str(folder), context_length=length, tokenizer_mode=mode, **options)
    except Exception as error:  # transformers has many for a tokenizer that it cannot load
        raise InvalidInput(f"{folder}: its tokenizer cannot be loaded ({first_line(error)})") from error
    return made, {"tokenizer": digest_tokenizer(folder), "context_length": length, "mode": mode, **options}
