"""Zero-shot experts: a vocabulary and a vision-language model become a concept set, and both towers run once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_towers import LENGTH, clip, open_clip_folder, siglip, siglip2

from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.ingest import ingest
from qrp_store.label.expert import label_by_expert
from qrp_store.label.zero_shot import TEMPLATES
from qrp_store.look import show
from qrp_store.models.two_towers import TwoTowers
from qrp_store.models.zero_shot import ZeroShot
from qrp_store.readers.vocabularies import read_vocabulary
from qrp_store.store import Store, create_store, open_store

KEYS = ["a.png", "b.png", "c.png"]
WORDS = ["cat", "dog", "red", "green"]
GROUPS = [None, None, "colour", "colour"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a vocabulary, and one small model with random weights for each family."""
    folder = tmp_path_factory.mktemp("zero-shot")
    (folder / "images").mkdir()
    for number, key in enumerate(KEYS):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).resize((70, 90), Image.Resampling.BICUBIC).save(folder / "images" / key)
    (folder / "words.txt").write_text("cat\ndog\nred,colour\ngreen,colour\n")
    for build in (clip, siglip, siglip2, open_clip_folder):
        build(folder / build.__name__)
    return folder


def logits_of_transformers(folder: Path, images: Path, texts: list[str]) -> np.ndarray:
    """What the library itself says: its processor, its tokenizer, its forward pass."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    kind = "max_length" if model.config.model_type.startswith("siglip") else True
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=kind, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    tokens.pop("token_type_ids", None)
    pictures = [Image.open(images / key) for key in KEYS]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    with torch.inference_mode():
        return model(**tokens, **pixels).logits_per_image.numpy()


def logits_of_open_clip(folder: Path, images: Path, texts: list[str]) -> np.ndarray:
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms("small-towers", load_weights=False)
    model.load_state_dict(torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True))
    tokens = open_clip.SimpleTokenizer(context_length=LENGTH)(texts)
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(images / key)) for key in KEYS])
        return model.eval().get_logits(pixels, tokens)[0].numpy()


def with_neutral(logits: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """The rule for CLIP, written out: a softmax over a concept's group and the neutral text."""
    scores = np.empty_like(logits)
    for i, group in enumerate(GROUPS):
        rivals = [i] if group is None else [j for j, other in enumerate(GROUPS) if other == group]
        total = np.exp(logits[:, rivals]).sum(1) + np.exp(neutral)
        scores[:, i] = np.exp(logits[:, i]) / total
    return scores


@pytest.fixture
def store(tmp_path: Path) -> Any:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as opened:
        np.save(tmp_path / "rows.npy", np.eye(3, dtype=np.float32))
        (tmp_path / "keys.txt").write_text("".join(f"{key}\n" for key in KEYS))
        ingest(opened, str(tmp_path / "rows.npy"), dataset="d", backbone="b", keys=str(tmp_path / "keys.txt"))
        yield opened


def label(store: Store, lab: Path, expert: str, **more: Any) -> Any:
    options = {"images": str(lab / "images"), "dataset": "d", "concepts": "seen", "threshold": 0.0}
    return label_by_expert(store, expert, **{**options, "vocabulary": str(lab / "words.txt"), **more})


def scores(store: Store, words: list[str] = WORDS) -> np.ndarray:
    rows = store.sql("SELECT key, concept, score FROM labels WHERE is_newest AND concepts = 'seen'")
    of = {(row["key"], row["concept"]): row["score"] for row in rows}
    return np.array([[of.get((key, word), 0.0) for word in words] for key in KEYS])


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2", "open_clip_folder"])
def test_the_scores_are_those_of_the_librarys_own_logits(store: Store, lab: Path, family: str) -> None:
    folder = lab / family
    is_open_clip = family == "open_clip_folder"
    logits_of: Callable[..., np.ndarray] = logits_of_open_clip if is_open_clip else logits_of_transformers
    made = label(store, lab, f"{'open_clip' if is_open_clip else 'hf'}/{folder}", template="a {}.")
    logits = logits_of(folder, lab / "images", [f"a {word}." for word in [*WORDS, "thing"]]).astype(np.float64)
    softmax = family in ("clip", "open_clip_folder")
    expected = with_neutral(logits[:, :4], logits[:, 4]) if softmax else 1 / (1 + np.exp(-logits[:, :4]))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(scores(store), expected, atol=1e-5)
    assert (made.n_concepts, made.groups) == (4, {"colour": 2})
    expert = show(store, made.id)["options"]["expert"]
    assert (expert["activation"], expert["templates"]) == ("softmax" if softmax else "sigmoid", ["a {}."])


def test_a_file_under_a_name_gives_the_labels_of_the_folder(store: Store, lab: Path) -> None:
    label(store, lab, f"open_clip/{lab / 'open_clip_folder'}")
    of_folder = scores(store)
    made = label(store, lab, "open_clip/small-towers", weights=str(lab / "trained.pt"))
    np.testing.assert_allclose(scores(store), of_folder, atol=1e-6)
    assert show(store, made.id)["options"]["expert"]["templates"] == list(TEMPLATES)


def test_each_tower_runs_once_for_any_threshold_and_vocabulary(
    store: Store, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []
    texts: list[str] = []
    embed, read = TwoTowers.scores, TwoTowers.texts
    monkeypatch.setattr(TwoTowers, "scores", lambda self, given: images.append(len(given)) or embed(self, given))
    monkeypatch.setattr(TwoTowers, "texts", lambda self, given: texts.extend(given) or read(self, given))
    expert = f"hf/{lab / 'siglip'}"

    def counted(**more: Any) -> tuple[int, list[str]]:
        images.clear()
        texts.clear()
        label(store, lab, expert, template="a {}.", **more)
        return sum(images) - 1, texts[1:]  # without the picture and the text that prove that the model runs

    assert counted() == (3, ["a thing.", *(f"a {word}." for word in WORDS)])
    first = scores(store)
    assert counted(threshold=0.3) == (0, [])
    assert counted(top_k=1, threshold=None) == (0, [])
    np.testing.assert_array_equal((scores(store) > 0).sum(1), [1, 1, 1])
    np.testing.assert_array_equal(scores(store).argmax(1), first.argmax(1))
    (tmp_path / "more.txt").write_text("green\nbird\n")
    assert counted(vocabulary=str(tmp_path / "more.txt")) == (0, ["a bird."])
    np.testing.assert_allclose(scores(store, ["green"])[:, 0], first[:, 3], atol=1e-7)
    assert label(store, lab, expert, template="a {}.", vocabulary=str(tmp_path / "more.txt")).cached


def test_planted_vectors_give_their_labels() -> None:
    rng = np.random.default_rng(0)
    texts = np.linalg.qr(rng.standard_normal((40, 24)).T)[0].T.astype(np.float32)  # orthogonal directions
    neutral, concepts = texts[0], texts[1:13]
    groups = ["colour"] * 3 + [None] * 9
    planted = np.zeros((500, 12), bool)
    planted[np.arange(500), rng.integers(0, 4, 500)] = True  # one colour, or none
    planted[:, 3:] = rng.random((500, 9)) < 0.2
    images = planted.astype(np.float32) @ concepts + 0.3 * neutral
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    rule = ZeroShot(concepts, groups, neutral, "softmax", 100.0, 0.0)
    actual = np.zeros_like(planted)
    for row, concept, score in rule.above(images, 0.5, None):
        assert (score > 0.5).all()
        actual[row, concept] = True
    np.testing.assert_array_equal(actual, planted)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_pieces_of_the_product_are_the_whole(activation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from qrp_store.models import zero_shot

    rng = np.random.default_rng(1)
    images, texts = (rng.standard_normal((n, 8)).astype(np.float32) for n in (50, 33))
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    groups = [f"g{i % 7}" if i % 3 else None for i in range(33)]
    rule = ZeroShot(texts, groups, texts[0], activation, 10.0, -1.0)
    logits = 10.0 * images.astype(np.float64) @ texts.T
    if activation == "sigmoid":
        expected = 1 / (1 + np.exp(1 - logits))
    else:
        rivals = np.array(
            [[(a is not None and a == b) or i == j for j, b in enumerate(groups)] for i, a in enumerate(groups)]
        )
        expected = np.exp(logits) / (np.exp(logits) @ rivals + np.exp(logits[:, :1]))
    monkeypatch.setattr(zero_shot, "_PIECE", 33 * 4)
    np.testing.assert_allclose(rule.scores(images), expected, atol=1e-5)
    for threshold, top_k in ((0.2, None), (None, 5), (0.2, 5)):
        counts = expected > (threshold or 0)
        if top_k is not None:
            counts &= expected >= np.sort(expected, axis=1)[:, -top_k][:, None]
        pairs = {
            (int(r), int(c))
            for row, concept, _ in rule.above(images, threshold, top_k)
            for r, c in zip(row, concept, strict=True)
        }
        assert pairs == {(int(r), int(c)) for r, c in np.argwhere(counts)}


def test_shipped_vocabularies_are_those_of_torchvision() -> None:
    from torchvision.models import ResNet50_Weights
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    def names(vocabulary: str) -> set[str]:
        return {name for name, _ in read_vocabulary(vocabulary)}

    assert names("imagenet") == set(ResNet50_Weights.DEFAULT.meta["categories"])
    assert names("coco") == set(FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]) - {"__background__", "N/A"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "holds no concepts"),
        ("# only this\n\n", "holds no concepts"),
        ("cat\ndog\ncat\n", "line 3: 'cat' is also on line 1"),
        ("cat,pet,small\n", "line 1: 'cat,pet,small': has more than two cells"),
        ("cat\n,pet\n", "line 2"),
    ],
)
def test_a_bad_vocabulary_is_refused_with_its_line(
    store: Store, lab: Path, tmp_path: Path, words: str, message: str
) -> None:
    (tmp_path / "bad.txt").write_text(words)
    with pytest.raises(InvalidInput, match=r"bad\.txt: ") as caught:
        label(store, lab, f"hf/{lab / 'clip'}", vocabulary=str(tmp_path / "bad.txt"))
    assert message in str(caught.value)


def test_what_cannot_be_an_expert_is_refused_in_one_message(store: Store, lab: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from transformers import CLIPVisionModel

    clip_folder = f"hf/{lab / 'clip'}"
    for copy in ("mute", "blind"):
        shutil.copytree(lab / "clip", tmp_path / copy)
    for file in (tmp_path / "mute").glob("*token*"):
        file.unlink()
    CLIPVisionModel.from_pretrained(lab / "clip").save_pretrained(tmp_path / "blind")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    cases: list[tuple[type[QrpStoreError], str, str, dict[str, Any]]] = [
        (NotFound, "has no tokenizer", f"hf/{tmp_path / 'mute'}", {}),
        (InvalidInput, "has no text tower", f"hf/{tmp_path / 'blind'}", {}),
        (InvalidInput, "must hold both towers", "open_clip/small-towers", {"weights": str(tmp_path / "other.pth")}),
        (InvalidInput, "which weights", "open_clip/small-towers", {}),
        (NotFound, "near: open_clip/ViT-B-32", "open_clip/ViT-B-23", {}),
        (NotFound, "no such file", "open_clip/small-towers", {"weights": str(tmp_path / "missing.pth")}),
        (NotFound, "did you mean colours", clip_folder, {"vocabulary": "colors"}),
        (InvalidInput, "needs a vocabulary", clip_folder, {"vocabulary": None}),
        (InvalidInput, "--template 'a photo'", clip_folder, {"template": "a photo"}),
        (InvalidInput, "--activation sigmoid", clip_folder, {"activation": "sigmoid"}),
        (InvalidInput, "--vocabulary and --template", "torchvision/squeezenet1_1", {"weights": "random"}),
    ]
    for kind, message, expert, more in cases:
        with pytest.raises(kind) as caught:
            label(store, lab, expert, **more)
        assert message in f"{caught.value} {caught.value.hint}", (expert, str(caught.value), caught.value.hint)
    assert list(store.sql("SELECT key FROM labels")) == []
