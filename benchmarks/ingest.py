"""Ingest and reading back, beside the plain tools, from one run.

    python benchmarks/ingest.py [--rows 500000] [--dim 1024] [--images 800] [--repeats 3]

array    a .npy into a fresh store (every block checksummed and synced) against copying the file and reading its sha256
scan     every block read and verified against np.load of the same bytes
gather   512 random rows against the same gather from a memory map
images   EfficientNet-Lite0 (random weights) on 128 px PNGs against torch's DataLoader with as many workers, no storage
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qrp_store.ingest import ingest
from qrp_store.store import Store, create_store, open_store


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fresh(folder: Path) -> Store:
    shutil.rmtree(folder / "store", ignore_errors=True)
    create_store(str(folder / "store"))
    return open_store(str(folder / "store"))


def copy_and_digest(source: Path) -> None:
    target = source.with_suffix(".copy")
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    target.unlink()


def array_rounds(folder: Path, rows: int, dim: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(peer, ours) seconds of array, scan and gather, taken in turns."""
    path = folder / "x.npy"
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        out[start : start + 10_000] = rng.standard_normal((len(out[start : start + 10_000]), dim), dtype=np.float32)
    out.flush()
    found: dict[str, list[tuple[float, float]]] = {"array": [], "scan": [], "gather": []}
    wanted = rng.choice(rows, 512, replace=False)
    for _ in range(repeats):
        with fresh(folder) as store:
            peer = seconds(lambda: copy_and_digest(path))
            ours = seconds(lambda: ingest(store, str(path), dataset="d", backbone="b"))
            found["array"].append((peer, ours))
            x = store.embedding("d", "b")
            peer = seconds(lambda: np.load(path))
            found["scan"].append((peer, seconds(lambda x=x: [part.shape for _, part in x.blocks()])))
            peer = seconds(lambda: np.load(path, mmap_mode="r")[wanted])
            found["gather"].append((peer, seconds(lambda x=x: x[wanted])))
    return found


def image_rounds(folder: Path, count: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(peer, ours) seconds of embedding a folder of pictures."""
    import timm
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        smooth = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((128, 128), Image.Resampling.BICUBIC).save(images / f"{i:05d}.png")
    workers = os.cpu_count() or 1

    class Pictures(Dataset[torch.Tensor]):
        paths = sorted(images.iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            picture = Image.open(self.paths[index]).convert("RGB").resize((128, 128))
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1

    def plain() -> None:
        model = timm.create_model("efficientnet_lite0", num_classes=0).eval()
        with torch.inference_mode():
            for batch in DataLoader(Pictures(), batch_size=64, num_workers=workers):
                model(batch)

    arguments = {"arch": "timm/efficientnet_lite0", "weights": "random", "image_size": 128}
    found = []
    for _ in range(repeats):
        with fresh(folder) as store:
            peer = seconds(plain)
            ours = seconds(lambda: ingest(store, str(images), dataset="d", backbone="b", **arguments))  # type: ignore[arg-type]
            found.append((peer, ours))
    return {"images": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, medians of {chosen.repeats}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = array_rounds(folder, chosen.rows, chosen.dim, chosen.repeats)
        if chosen.images:
            found |= image_rounds(folder, chosen.images, chosen.repeats)
    for what, rounds in found.items():
        peer, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        print(f"{what:7s} peer {peer:8.3f} s   qrp_store {ours:8.3f} s   our speed {ratio:5.2f} x the peer's")


if __name__ == "__main__":
    main()
