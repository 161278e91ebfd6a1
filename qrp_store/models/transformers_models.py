"""Vision models of transformers: `hf/FOLDER`, or `hf/NAME` from the local cache, with the folder's own preprocessor.

No code of a checkpoint runs: trust_remote_code is never set. Weights, configuration and preprocessor are the folder's;
what `AutoModel` builds is the network, of CLIP and its relatives the image tower.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models.conversions import left_out
from qrp_store.models.network import Architecture, Pair, Preprocessing, Request, normalised
from qrp_store.models.tokenizers import digest_tokenizer, local_folder, tokenizer_files
from qrp_store.models.weight_files import digest_weights

if TYPE_CHECKING:
    import torch

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# Tensors of heads and of pretraining, by the first part of their names.
_HEADS = frozenset(
    [
        "classifier",
        "cls_classifier",
        "distillation_classifier",
        "head",
        "lm_head",
        "decoder",
        "predictor",
        "visual_projection",
        "text_projection",
        "text_model",
        "logit_scale",
        "logit_bias",
        "fc_norm",
        "projection",
        "auxiliary_head",
        "decode_head",
        "neck",
        "seg_head",
        "bbox_predictor",
        "class_labels_classifier",
        "multi_modal_projector",
        "language_model",
        "embed_out",
    ]
)


def build(request: Request) -> Architecture:
    """Return a vision model of transformers, with the weights of its folder unless others are wanted."""
    with _quiet() as transformers:
        folder = _folder(request.name)
        config = _config(transformers, folder)
        model, pooled = _model(transformers, folder, config, request)
        tower = _tower(model, config, request.arch)
        processor = _processor(transformers, folder, request)
    preprocessing, picture = _preprocessing(processor, tower.config, request)
    network = _with_outputs(tower)
    vision = _vision(network, pooled, request, preprocessing.image_size)
    identity = {"kind": "folder", "name": None, "sha256": digest_weights(folder)} if request.published else None
    return Architecture(
        vision,
        (),
        preprocessing,
        network=network,
        identity=identity,
        name=f"hf/{type(tower).__name__}",
        picture=picture,
        prefix_tokens=_prefix_tokens(tower),
    )


def build_pair(request: Request) -> Pair:
    """Return both towers of a CLIP, SigLIP or SigLIP2 folder. Raises as `build`, and NotFound without a tokenizer."""
    with _quiet() as transformers:
        folder = _folder(request.name)
        config = _config(transformers, folder)
        model, _ = _model(transformers, folder, config, request)
        if not hasattr(model, "get_text_features") or not hasattr(model, "logit_scale"):
            raise InvalidInput(
                f"{request.arch}: a {config.model_type} model has no text tower to compare images with",
                hint="a folder of CLIP, SigLIP or SigLIP2; an image tower alone can be a backbone",
            )
        processor = _processor(transformers, folder, request)
        text = _texts(transformers, folder, model, config)
    prepare, image, document = _images(processor, model, config, request)
    identity = {"tokenizer": digest_tokenizer(folder)}
    return Pair(f"hf/{type(model).__name__}", model, document, identity, prepare, image, text)


def _images(
    processor: Any, model: Any, config: Any, request: Request
) -> tuple[Callable[[Any], torch.Tensor], Callable[[torch.Tensor], torch.Tensor], dict[str, Any]]:
    """Return the image tower's preprocessing, its forward pass, and the preprocessing as JSON."""
    if config.model_type == "siglip2":
        return _patches(processor, model)
    settings, picture = _preprocessing(processor, config.vision_config, request)
    prepare = picture or Architecture(model, (), settings).resize()

    def image(pixels: torch.Tensor) -> torch.Tensor:
        return _vectors(model.get_image_features(pixel_values=normalised(pixels, settings.mean, settings.std)))

    return prepare, image, settings.document()


def _patches(
    processor: Any, model: Any
) -> tuple[Callable[[Any], torch.Tensor], Callable[[torch.Tensor], torch.Tensor], dict[str, Any]]:
    """Return the same for a SigLIP2 tower that takes patches of any aspect ratio: their pixels, which of them count,
    and their number in both directions stand in one tensor (patches, pixels + 3)."""

    def prepare(picture: Any) -> torch.Tensor:
        import torch

        made = processor(images=picture, return_tensors="pt")
        pixels, mask, shape = (made[name][0] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes"))
        return torch.cat([pixels, mask[:, None].float(), shape.float().expand(len(pixels), 2)], 1)

    def image(batch: torch.Tensor) -> torch.Tensor:
        outputs = model.get_image_features(
            pixel_values=batch[:, :, :-3].contiguous(),
            pixel_attention_mask=batch[:, :, -3].int(),
            spatial_shapes=batch[:, 0, -2:].long(),
        )
        return _vectors(outputs)

    names = ("image_processor_type", "patch_size", "max_num_patches", "resample", "image_mean", "image_std")
    settings = json.loads(processor.to_json_string())
    return prepare, image, {name: settings[name] for name in names if name in settings}


def _vectors(outputs: Any) -> torch.Tensor:
    """Return the vectors of `get_image_features` and `get_text_features`, in old and new versions of transformers."""
    vectors: torch.Tensor = getattr(outputs, "pooler_output", outputs)
    return vectors


def _texts(transformers: Any, folder: Path, model: Any, config: Any) -> Callable[[list[str], str], torch.Tensor]:
    """Return the text tower's forward pass, with the folder's tokenizer padded as the model was trained."""
    if not tokenizer_files(folder):
        raise NotFound(
            f"{folder}: has no tokenizer, so its text tower cannot read",
            hint="copy tokenizer.json and tokenizer_config.json of the model into it",
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers has many for a tokenizer that it cannot load
        raise InvalidInput(
            f"{folder}: transformers cannot load its tokenizer ({first_line(error)})",
            hint="a spiece.model needs: pip install sentencepiece",
        ) from error
    length = int(config.text_config.max_position_embeddings)
    padding = "max_length" if config.model_type.startswith("siglip") else True

    def text(texts: list[str], device: str) -> torch.Tensor:
        tokens = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        taken = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask") if name in tokens}
        return _vectors(model.get_text_features(**taken))

    return text


@contextmanager
def _quiet() -> Iterator[Any]:
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise Unavailable(f"hf/… needs transformers ({error})", hint="pip install 'qrp-store[hf]'") from error
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _folder(name: str) -> Path:
    folder = local_folder(name)
    if folder is None:
        raise NotFound(
            f"hf/{name}: no such folder, and no model of that name in the local cache",
            hint=f"hf download {name}; nothing is downloaded here",
        )
    return folder


def _config(transformers: Any, folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise InvalidInput(f"{folder}: has no config.json", hint="a folder that transformers' save_pretrained wrote")
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        code = "auto_map" in (folder / "config.json").read_text(encoding="utf-8", errors="replace")
        reason = "its model is code in the folder, which is never run" if code else first_line(error)
        raise InvalidInput(
            f"{folder}: transformers cannot read its config.json ({reason})",
            hint="--arch python/MODULE:FACTORY runs code that you name" if code else None,
        ) from error


def _model(transformers: Any, folder: Path, config: Any, request: Request) -> tuple[Any, bool]:
    """Return the model, and whether its pooled output has weights of its own or needs none.

    Some architectures are backbones of detectors alone, which AutoModel does not know.
    """
    import torch

    builder = transformers.AutoModel
    try:
        if type(config) not in transformers.MODEL_MAPPING and type(config) in transformers.MODEL_FOR_BACKBONE_MAPPING:
            builder = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]  # AutoBackbone would ask the hub
        if not request.published and builder is not transformers.AutoModel:
            return builder._from_config(config), True
        if not request.published:
            return builder.from_config(config, trust_remote_code=False), True
        model, info = builder.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # whatever a folder may lack or hold
        raise InvalidInput(f"{folder}: transformers cannot load it ({first_line(error)})") from error
    missing = sorted(info["missing_keys"])
    unexpected = sorted(name for name in info["unexpected_keys"] if not _is_head(name, model))
    without_pooler = [name for name in missing if "pooler" not in name.split(".")]
    for title, names in (("lacks", without_pooler), ("has unknown", unexpected)):
        if names:
            more = ", …" if len(names) > 8 else ""
            raise InvalidInput(f"{folder}: {title} {len(names)} tensors: {', '.join(names[:8])}{more}")
    return model, not missing


def _is_head(name: str, model: Any) -> bool:
    parts = name.split(".")
    return left_out(name) or parts[0] in _HEADS or (parts[0] == model.base_model_prefix and parts[1] in _HEADS)


def _tower(model: Any, config: Any, arch: str) -> Any:
    tower = getattr(model, "vision_model", None) if hasattr(config, "vision_config") else model
    if tower is None or getattr(tower, "main_input_name", "pixel_values") != "pixel_values":
        raise InvalidInput(
            f"{arch}: a {config.model_type} model takes {model.main_input_name}, not images",
            hint="a backbone embeds images; text models cannot be one",
        )
    return tower


def _processor(transformers: Any, folder: Path, request: Request) -> Any:
    """The folder's image processor; None when the user gives the statistics."""
    if not any((folder / name).is_file() for name in _PROCESSORS):
        if request.statistics:
            return None
        raise InvalidInput(
            f"{folder}: has no preprocessor_config.json, so its preprocessing is not known",
            hint="add the file, or say --mean M --std S (and --resize, --image-size)",
        )
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InvalidInput(f"{folder}: transformers cannot load its preprocessor ({first_line(error)})") from error


def _preprocessing(
    processor: Any, config: Any, request: Request
) -> tuple[Preprocessing, Callable[[Any], torch.Tensor] | None]:
    """What the folder's preprocessor does, and a call of it that leaves the statistics to the backbone."""
    if processor is None:
        side = request.image_size or _side(getattr(config, "image_size", 224))
        return Preprocessing(side, side, "bicubic"), None
    settings = json.loads(processor.to_json_string())
    pictures = _pictures(processor)
    side = _square(pictures, request.arch)
    resize, mode = _resize(settings, side)
    usual = settings.get("do_normalize", True)
    mean = _three(settings.get("image_mean")) if usual else (0.0, 0.0, 0.0)
    std = _three(settings.get("image_std")) if usual else (1.0, 1.0, 1.0)
    if settings.get("do_rescale", True) and abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise InvalidInput(
            f"{request.arch}: its preprocessor scales pixels by {settings['rescale_factor']}, expected 1/255"
        )
    resample = settings.get("resample")
    name = _RESAMPLING[resample] if isinstance(resample, int) and 0 <= resample < len(_RESAMPLING) else "bilinear"
    base = Preprocessing(side, resize, name, mean, std, mode)
    if request.image_size in (None, side):
        return base, pictures
    size = request.image_size
    assert size is not None
    return Preprocessing(size, round(size * resize / side), name, mean, std, mode), None


def _pictures(processor: Any) -> Callable[[Any], torch.Tensor]:
    def pixels(image: Any) -> torch.Tensor:
        import torch

        made = processor(images=image, return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"][0]
        whole: torch.Tensor = made if made.dtype == torch.uint8 else made.round().clamp(0, 255).to(torch.uint8)
        return whole

    return pixels


def _square(pictures: Callable[[Any], torch.Tensor], arch: str) -> int:
    """The side of what a preprocessor makes of a picture that is not square."""
    from PIL import Image

    try:
        shape = tuple(pictures(Image.new("RGB", (96, 64))).shape)
    except Exception as error:  # processors of videos, documents, patches
        raise InvalidInput(f"{arch}: its preprocessor does not take one image ({first_line(error)})") from error
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise InvalidInput(
            f"{arch}: its preprocessor makes {shape} of an image, expected a square with three channels",
            hint="a preprocessor_config.json with do_center_crop, or with height and width",
        )
    return shape[1]


def _resize(settings: Mapping[str, Any], side: int) -> tuple[int, str]:
    """The resize's pixels and the crop's mode."""
    size = settings.get("size")
    if isinstance(size, int):
        return size, "squash"
    size = size or {}
    shortest = size.get("shortest_edge")
    if shortest is None:
        return int(size.get("height") or side), "squash"
    percent = settings.get("crop_pct")
    if percent and shortest < 384:
        return int(shortest / percent), "center"
    return int(shortest), "center" if settings.get("do_center_crop") else "squash"


def _three(values: Any) -> tuple[float, float, float]:
    numbers = [float(v) for v in (values if isinstance(values, list | tuple) else [values])]
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return first, second, third


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else max(size))


def _with_outputs(tower: Any) -> Any:
    """The model with two more names for `--layer`: its tokens (or map) and its pooled output."""
    from torch import nn

    tower.add_module("last_hidden_state", nn.Identity())
    tower.add_module("pooler_output", nn.Identity())
    return tower


def _vision(tower: Any, pooled: bool, request: Request, side: int) -> Any:
    import torch

    parameters = inspect.signature(tower.forward).parameters
    options: dict[str, Any] = {}
    if request.interpolate and "interpolate_pos_encoding" in parameters:
        options["interpolate_pos_encoding"] = True
    masked = "noise" in parameters  # MAE shuffles its patches by noise and drops most of them
    if masked and hasattr(tower.config, "mask_ratio"):
        tower.config.mask_ratio = 0.0

    class Vision(torch.nn.Module):
        """Pixels to the pooled output."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            more = dict(options)
            if masked:
                patches = (side // _side(tower.config.patch_size)) ** 2
                order = torch.arange(patches, dtype=torch.float32, device=pixels.device)
                more["noise"] = order.expand(len(pixels), -1)
            outputs = tower(pixel_values=pixels, **more)
            maps = getattr(outputs, "feature_maps", None)
            if maps is not None:  # of AutoBackbone: the last stage, whose mean over space is the vector
                last = tower.last_hidden_state(maps[-1])
                vectors: torch.Tensor = tower.pooler_output(last.flatten(2).mean(2) if last.ndim == 4 else last.mean(1))
                return vectors
            tokens = tower.last_hidden_state(getattr(outputs, "last_hidden_state", None))
            vector = getattr(outputs, "pooler_output", None) if pooled else None
            result: torch.Tensor = tokens if vector is None else tower.pooler_output(vector).flatten(1)
            return result

    return Vision()


def _prefix_tokens(tower: Any) -> int:
    """Tokens before those of the patches: the class token, registers and a distillation token, where it has them."""
    config = tower.config
    names = [name.rpartition(".")[2] for name, _ in tower.named_parameters()]
    single = sum(token in names for token in ("cls_token", "class_embedding", "distillation_token"))
    return single + int(getattr(config, "num_register_tokens", 0) or 0)
