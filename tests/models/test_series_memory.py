"""A series of checkpoints needs the memory of one: the others are mapped from a temporary file."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import torch

from qrp_store.errors import Unavailable
from qrp_store.models.backbone import BackboneOptions, load_backbone
from qrp_store.models.together import load_together


def private_bytes() -> int:
    """Memory that the system cannot drop."""
    gc.collect()
    actual = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert actual is not None
    return 1024 * int(actual[1])


def test_the_weights_of_a_series_are_mapped_and_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import resnet18

    options = []
    for epoch in range(5):
        torch.manual_seed(epoch)
        torch.save(resnet18().state_dict(), tmp_path / f"{epoch}.pth")
        options.append(BackboneOptions("torchvision/resnet18", weights=str(tmp_path / f"{epoch}.pth"), device="cpu"))
    pixels = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    alone = [load_backbone(each) for each in options]
    expected = torch.cat([each.forward(pixels) for each in alone], 1)
    size = sum(t.nbytes for t in alone[0]._model.state_dict().values())
    del alone
    before = private_bytes()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    series = load_together(options)
    assert torch.equal(series.forward(pixels), expected)
    assert private_bytes() - before < 2 * size
    assert list(tmp_path.glob("qrp-weights-*")) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(Unavailable, match="cannot be put here"):
        load_together(options)
