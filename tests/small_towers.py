"""Small vision-language models with random weights, saved by their own libraries, with a tokenizer of letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZE, LENGTH = 32, 12


def tokenizer(folder: Path) -> None:
    """A tokenizer with a token for each letter."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(["_", "<s>", "</s>", "?", *" .abcdefghijklmnopqrstuvwxyz-"])}
    made = Tokenizer(WordLevel(letters, unk_token="?"))
    made.pre_tokenizer = Split("", "isolated")
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="_", bos_token="<s>", eos_token="</s>", unk_token="?"
    ).save_pretrained(folder)


def towers(**vision: Any) -> dict[str, Any]:
    layer = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**layer, "vocab_size": 40, "max_position_embeddings": LENGTH}
    return {"text_config": text, "vision_config": {**layer, "patch_size": 8, **vision}}


def save(model: Any, processor: Any, folder: Path) -> None:
    import torch

    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.mul_(20)  # random weights alone give every picture and every text the same vector
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer(folder)


def clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    config = CLIPConfig(**towers(image_size=SIZE), projection_dim=12)
    config.text_config.eos_token_id, config.text_config.bos_token_id, config.text_config.pad_token_id = 2, 1, 0
    save(CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE), folder)


def siglip(folder: Path) -> None:
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(**towers(image_size=SIZE)))
    model.logit_bias.data.fill_(0.1)
    save(model, SiglipImageProcessor(size={"height": SIZE, "width": SIZE}), folder)


def siglip2(folder: Path) -> None:
    import torch
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    torch.manual_seed(2)
    model = Siglip2Model(Siglip2Config(**towers(num_patches=16)))
    model.logit_bias.data.fill_(-0.1)
    save(model, Siglip2ImageProcessor(patch_size=8, max_num_patches=16), folder)


def open_clip_folder(folder: Path) -> None:
    import open_clip
    import torch

    folder.mkdir()
    text = {"context_length": LENGTH, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": SIZE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    (folder / "small-towers.json").write_text(json.dumps(config))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    open_clip.add_model_config(folder / "small-towers.json")
    torch.manual_seed(3)
    model = open_clip.create_model("small-towers", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    older = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": older}, folder.parent / "trained.pt")
