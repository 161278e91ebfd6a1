"""All that a GPU has to show, in one command of at most ten minutes: first that results are right, then speed ratios.

    python benchmarks/gpu.py [--part NAME]          # make gpu

Each part is a process with a time limit, so a part that hangs or crashes costs only itself. Without a card, the same
parts run in small on the pretend GPU (tests/pretend_gpu.py), where times mean nothing. Prints a table for RESULTS.md.
Exit code: the number of parts that failed.

tests      every CUDA test
hardware   what the estimates of docs/scale.md rest on: matrix product, copies, long bags, fused SGD
agreement  the same bits again, resident or streamed; labels, losses and vectors near the CPU's
kmeans     256,000 × 2,048, K 1,000, 25 iterations, against a plain torch loop on the same card
faiss      the same against faiss.Kmeans(gpu=True), where faiss sees a GPU
probe      epochs at ImageNet's size, against the DataLoader script on the same card
stack      small probes one by one and together
ingest     ResNet-50 and ViT-B/16, images a second, against the bare loop on synthetic images
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {
    "tests": 150,
    "hardware": 40,
    "agreement": 40,
    "kmeans": 90,
    "faiss": 90,
    "probe": 90,
    "stack": 30,
    "ingest": 60,
}


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The median time of a call after a first one, with the device's work waited for."""
    import torch

    work()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def tests(small: bool) -> dict[str, Any]:
    if small:
        chosen = ["tests/test_on_a_pretend_gpu.py"]
    else:
        chosen = ["-k", "cuda", "tests/probing", "tests/kmeans", "tests/models", "tests/stories"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]
    return {"passed": run.stdout.strip().splitlines()[-1]}


def hardware(small: bool) -> dict[str, Any]:
    import torch

    n = 512 if small else 8192
    a, b = torch.randn(n, 2048).cuda(), torch.randn(1000, 2048).cuda()
    host, there = torch.empty(8 << 20, pin_memory=True).fill_(1), torch.zeros(8 << 20).cuda()
    residual, repeats = torch.randn(512, 1000).cuda(), 3 if small else 50
    table = torch.zeros(2001, 1000).cuda()
    table.grad = torch.zeros(2001, 1000).cuda()
    sgd = torch.optim.SGD([table], lr=torch.tensor(0.1).cuda(), momentum=0.9, weight_decay=3e-6, fused=True)
    momentum = torch.zeros(2001, 1000).cuda()

    def three_passes() -> None:
        momentum.mul_(0.9).add_(table.grad)
        momentum.add_(table.detach(), alpha=3e-6)
        table.add_(momentum, alpha=-0.1)

    bags = [_bags(torch, residual, lengths) for lengths in ([3] * 2000 + [512], [3] * 2000)]
    return {
        "float32 product, TFLOP/s": 2 * n * 2048 * 1000 / seconds(lambda: a @ b.T) / 1e12,
        "pinned copy to the device, GB/s": host.nbytes / seconds(lambda: there.copy_(host, non_blocking=True)) / 1e9,
        "bags with one of 512, µs": 1e6 * seconds(bags[0], repeats),
        "bags without it, µs": 1e6 * seconds(bags[1], repeats),
        "sum over 512 rows, µs": 1e6 * seconds(lambda: residual.sum(0), repeats),
        "fused SGD, µs": 1e6 * seconds(sgd.step, repeats),
        "SGD in three passes, µs": 1e6 * seconds(three_passes, repeats),
    }


def _bags(torch: Any, rows: Any, lengths: list[int]) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    members = torch.from_numpy(rng.integers(0, len(rows), sum(lengths)).astype(np.int32)).cuda()
    ends = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)).cuda()
    return lambda: torch.nn.functional.embedding_bag(members, rows, ends, mode="sum", include_last_offset=True)


def agreement(small: bool) -> dict[str, Any]:
    from probe import generated

    from qrp_store.kmeans import MemoryPoints, torch_transfer
    from qrp_store.kmeans.torch_points import TorchPoints
    from qrp_store.options import ProbeOptions
    from qrp_store.probing.train import fit

    x = np.random.default_rng(0).standard_normal((8_000 if small else 40_000, 256)).astype(np.float32)
    centroids = x[:500].copy()
    torch_transfer._PIECE = 100_000  # so that both buffers are used many times
    steps = [TorchPoints(MemoryPoints(x), device="cuda", budget=b).step(centroids) for b in (0, 0, 10**9, 10**9)]
    assert len({step.sums.tobytes() for step in steps}) == 1, "two passes gave different bits"
    ours, cpu = TorchPoints(MemoryPoints(x), device="cuda").assign(centroids), MemoryPoints(x).assign(centroids)
    result: dict[str, Any] = {
        "labels equal to the CPU's": float((ours[0] == cpu[0]).mean()),
        "largest difference of distances, relative": float(np.abs(ours[1] - cpu[1]).max() / cpu[1].max()),
    }
    assert result["labels equal to the CPU's"] > 0.999, result
    y, c = generated(6000, 300, 60, 13)
    train, val = np.arange(5000), np.arange(5000, 6000)
    for name, options in (("sgd", {"epochs": 5}), ("lbfgs", {"solver": "lbfgs", "weight_decay": 1e-3})):
        losses = [
            fit(y.take(train), c[train], y.take(val), c[val], 60, ProbeOptions(**options), seed=0, device=device)  # type: ignore[arg-type]
            for device in ("cuda", "cpu")
        ]
        result[f"difference of training losses, {name}, nats"] = abs(losses[0].train_loss - losses[1].train_loss)
        assert result[f"difference of training losses, {name}, nats"] < 1e-3, result
    return result


def kmeans(small: bool) -> dict[str, Any]:
    import kmeans_gpu
    import torch

    n, dim, k, niter = (4000, 64, 20, 5) if small else (256_000, 2048, 1000, 25)
    x = kmeans_gpu.rows(n, dim, k)
    start = x[np.sort(np.random.default_rng(1).permutation(n)[:k])].copy()
    ours = [kmeans_gpu.ours(x, start, Namespace(device="cuda", niter=niter)) for _ in range(2)][-1]

    def plain() -> None:
        rows, current = torch.from_numpy(x).cuda(), torch.from_numpy(start).cuda()  # ours brings them within its clock
        for _ in range(niter):
            norms = current.square().sum(1)
            labels = torch.cat([torch.addmm(norms, p, current.T, alpha=-2).argmin(1) for p in rows.split(65536)])
            counts = torch.zeros(k).cuda().index_add_(0, labels, torch.ones(n).cuda())
            current = torch.zeros_like(current).index_add_(0, labels, rows) / counts.clamp(min=1)[:, None]

    peer = seconds(plain, 1)
    return {
        "ours, training, s": ours["train_s"],
        "ours, with assigning, s": ours["total_s"],
        "plain torch loop, s": peer,
        "ratio ours / plain": ours["train_s"] / peer,
    }


def faiss(small: bool) -> dict[str, Any]:
    import kmeans_gpu

    from qrp_store.kmeans.nearest import faiss_gpus

    if not faiss_gpus():
        return {"not run": "this faiss sees no GPU"}
    x = kmeans_gpu.rows(256_000, 2048, 1000)
    start = x[np.sort(np.random.default_rng(1).permutation(len(x))[:1000])].copy()
    options = Namespace(device="cuda", niter=25)
    peers = [kmeans_gpu.peer(x, start, options) for _ in range(2)]  # the second of each counts: libraries are loaded
    engine = [kmeans_gpu.by_faiss(x, start, options) for _ in range(2)][-1]
    return {
        "faiss.Kmeans, training, s": peers[-1]["train_s"],
        "faiss.Kmeans, with assigning, s": peers[-1]["total_s"],
        "our faiss engine, training, s": engine["train_s"],
        "our faiss engine, with assigning, s": engine["total_s"],
    }


def probe(small: bool) -> dict[str, Any]:
    import torch
    from probe import MultiHot, generated, ours

    from qrp_store.options import ProbeOptions

    n, concepts, clusters, epochs = (4096, 100, 20, 1) if small else (819_947, 2000, 1000, 5)
    x, c = generated(n, concepts, clusters, 13)
    few = np.arange(2048)
    ours(x.take(few), c[few], clusters, ProbeOptions(epochs=1), "cuda")
    fitted = ours(x, c, clusters, ProbeOptions(epochs=epochs), "cuda")
    some = np.arange(min(n, 20_000))
    weights = torch.zeros(concepts, clusters).cuda().requires_grad_(not small)
    sgd = torch.optim.SGD([weights], lr=3.5, momentum=0.9, weight_decay=3e-6)

    def script() -> None:
        loader = torch.utils.data.DataLoader(MultiHot(x.take(some), c[some]), batch_size=512, shuffle=True)
        for y, labels in loader:
            logits = y.cuda() @ weights
            if not small:  # the pretend GPU knows no autograd
                sgd.zero_grad()
                torch.nn.functional.cross_entropy(logits, labels.cuda()).backward()
                sgd.step()

    peer, epoch = seconds(script, 1) * n / len(some), fitted.timings["train_s"] / fitted.epochs_run
    return {
        "ours, an epoch, s": epoch,
        "ours, 100 epochs, s": 100 * epoch,
        "ours, a step, µs": epoch / (n / 512) * 1e6,
        "DataLoader script, an epoch, s (scaled)": peer,
        "ratio script / ours": peer / epoch,
    }


def stack(small: bool) -> dict[str, Any]:
    from probe import generated

    from qrp_store.options import ProbeOptions
    from qrp_store.probing.stack import fit_all
    from qrp_store.probing.train import Problem

    n, many, epochs = (1280, 3, 2) if small else (12_800, 30, 20)
    x, c = generated(n + 512, 300, 50, 13)
    train, val = np.arange(n), np.arange(n, n + 512)
    problem = Problem(x.take(train), c[train], x.take(val), c[val], 50, ProbeOptions(epochs=epochs), 0, "cuda")
    one = seconds(lambda: list(fit_all([(0, problem)])), 1)
    together = seconds(lambda: list(fit_all([(0, problem)] * many)), 1)
    return {"one probe, s": one, f"{many} together, s": together, "gain": one * many / together}


def ingest(small: bool) -> dict[str, Any]:
    import torch

    from qrp_store.models.backbone import BackboneOptions, load_backbone

    size, batch = (64, 2) if small else (224, 64)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    result: dict[str, Any] = {}
    for arch in ("torchvision/resnet50",) if small else ("torchvision/resnet50", "timm/vit_base_patch16_224"):
        for precision in ("float32",) if small else ("float32", "float16"):
            model, cpu = (
                load_backbone(BackboneOptions(arch, "random", image_size=size, device=device, precision=precision))
                for device in ("cuda", "cpu")
            )
            result[f"{arch}, {precision}, images a second"] = batch / seconds(
                lambda model=model: model.forward(pixels), 3
            )
            ours, there = (m.forward(pixels[:2]).float().cpu().numpy() for m in (model, cpu))
            result[f"{arch}, {precision}, difference from the CPU"] = float(
                np.abs(ours - there).max() / np.abs(there).max()
            )
    return result


def run(part: str, small: bool) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, __file__, "--part", part]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS[part] * (4 if small else 1))
    except subprocess.TimeoutExpired:
        return {"FAILED": f"took longer than {LIMITS[part]} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[-1][7:]) if lines else {"FAILED": (done.stdout + done.stderr)[-1500:]}


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(description="What a GPU has to show")
    parser.add_argument("--part", choices=tuple(LIMITS))
    options = parser.parse_args()
    small = not torch.cuda.is_available()
    if options.part:
        if small:
            sys.path.append(str(ROOT / "tests"))
            import pretend_gpu

            pretend_gpu.install()
        print("RESULT " + json.dumps(globals()[options.part](small)))
        return 0
    print("the pretend GPU, in small: times mean nothing" if small else torch.cuda.get_device_name())
    failed, rows = 0, []
    for part in LIMITS:
        began = time.perf_counter()
        result = run(part, small)
        failed += "FAILED" in result
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        rows += [
            (part, name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in result.items()
        ]
    print("\n| part | figure | value |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |")
    return failed


if __name__ == "__main__":
    sys.exit(main())
