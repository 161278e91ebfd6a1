"""Feeds a store with damaged and hostile files and watches the process: `hostile_driver.py FOLDER ROUNDS SEED`.

One JSON document comes out: how many were taken and refused, and every violation. Watched are Python's audit events
(programs, network, unpickled globals, files opened) and, by inotify, files that libraries in C open or the kernel runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from PIL import Image
from torchvision.models import resnet18

from qrp_store.cli.main import call

KEYS = [f"{i}.png" for i in range(12)]
X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
RUNS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "socket.connect",
    "pty.spawn",
)
MODEL = ("--arch", "torchvision/resnet18", "--image-size", "32", "--device", "cpu", "--workers", "1")
RANDOM = (*MODEL, "--weights", "random")
IN_OPEN = 0x20


class Evil:
    """Pickles as a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


class Watch:
    """Audit events of this process, and opened files below folders that nothing may open."""

    def __init__(self, inside: Path, *forbidden: Path) -> None:
        self.events: list[str] = []
        self.inside, self.forbidden = str(inside), tuple(map(str, forbidden))
        self.places = tuple(
            os.path.realpath(p) for p in {sys.prefix, sys.base_prefix, *filter(None, sys.path), "/usr", "/lib"}
        )
        self.on = False
        libc = ctypes.CDLL(None, use_errno=True)
        self.inotify = libc.inotify_init1(os.O_NONBLOCK) if hasattr(libc, "inotify_init1") else -1
        for folder in forbidden:
            if self.inotify >= 0:
                assert libc.inotify_add_watch(self.inotify, os.fsencode(folder), IN_OPEN) >= 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in RUNS:
            self.events.append(f"{event} {str(arguments)[:200]}")
        elif event == "pickle.find_class" and str(arguments[0]).split(".")[0] in (
            "os",
            "posix",
            "nt",
            "builtins",
            "subprocess",
        ):
            self.events.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(self.forbidden) or not path.startswith(
                (self.inside, *self.places, "/proc/", "/dev/", "/sys/")
            ):
                self.events.append(f"open {path}")

    def drain(self) -> list[str]:
        """Everything since the last time."""
        events, self.events = self.events, []
        with contextlib.suppress(BlockingIOError):
            while self.inotify >= 0 and (data := os.read(self.inotify, 1 << 16)):
                size = int.from_bytes(data[12:16], "little")
                events.append(f"opened by a library: {data[16 : 16 + size].rstrip(bytes(1)).decode()}")
        return events


def picture(form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(out, form)
    return out.getvalue()


def archive(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)


def h5(path: Path, external: Path | None = None) -> None:
    with h5py.File(path, "w") as file:
        if external is None:
            file["x"] = X
        else:
            file.create_dataset("x", (12, 4), dtype="u1", external=[(str(external), 0, 48)])


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def document(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content))


COCO = {
    "images": [{"id": i, "file_name": key} for i, key in enumerate(KEYS)],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 5, 5]} for i in range(12)],
}
VOC = "<annotation><filename>{}</filename><object><name>{}</name></object></annotation>"
CVAT = "".join(f'<image id="{i}" name="{key}"><box label="cat"/></image>' for i, key in enumerate(KEYS))
ARRAYS: dict[str, Callable[[Path], object]] = {
    "x.npy": lambda p: np.save(p, X),
    "x.npz": lambda p: np.savez_compressed(p, x=X),
    "x.safetensors": lambda p: p.write_bytes(
        (72).to_bytes(8, "little")
        + b'{"x": {"dtype": "F32", "shape": [12, 4], "data_offsets": [0, 192]}}'.ljust(72)
        + X.tobytes()
    ),
    "x.parquet": lambda p: pq.write_table(pa.table({"key": KEYS, "v": list(X)}), p),
    "x.pt": lambda p: torch.save(torch.from_numpy(X), p),
    "x.h5": h5,
    "x.csv": text("key,a,b\n" + "".join(f"{key},1.5,{i}.25\n" for i, key in enumerate(KEYS))),
    "x.zarr": lambda p: zarr.create_array(p, data=X, chunks=(6, 4)),
}
LABELS: dict[str, Callable[[Path], object]] = {
    "l.csv": text("key,concept,score\n" + "".join(f"{key},cat,0.9\n" for key in KEYS)),
    "l.jsonl": text("".join(json.dumps({"key": key, "concept": "cat"}) + "\n" for key in KEYS)),
    "l.parquet": lambda p: pq.write_table(pa.table({"key": KEYS, "concept": ["cat"] * 12}), p),
    "l.json": document(COCO),
    "cvat.xml": text(f"<annotations>{CVAT}</annotations>"),
    "celeba.txt": text("12\nSmiling Young\n" + "".join(f"{key} 1 -1\n" for key in KEYS)),
    "list.txt": text("".join(f"{key} 3\n" for key in KEYS)),
    "l.npy": lambda p: np.save(p, X > 0),
}  # fmt: skip
IMAGES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def hostile(folder: Path, secret: Path, mark: Path) -> list[tuple[str, str]]:
    """Files made to read the secret or to run a program: (what kind of command takes it, its name)."""
    made = []

    def put(kind: str, name: str, write: Callable[[Path], object]) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
        made.append((kind, name))

    put("array", "external.h5", lambda p: h5(p, secret))
    put("array", "evil.npy", lambda p: np.save(p, np.array([Evil(mark)], object), allow_pickle=True))
    put("array", "evil.npz", lambda p: np.savez(p, x=np.array([Evil(mark)], object), allow_pickle=True))
    for kind in ("array", "weights"):
        put(kind, f"{kind}.pt", lambda p: torch.save({"state_dict": Evil(mark)}, p))
        put(kind, f"{kind}.pth", lambda p: p.write_bytes(pickle.dumps(Evil(mark))))
    put("array", "linked.zarr", lambda p: zarr.create_array(p, data=X, chunks=(6, 4)))
    (folder / "linked.zarr/c/0/0").unlink()
    (folder / "linked.zarr/c/0/0").symlink_to(secret)
    put(
        "images",
        "links.tar",
        lambda p: archive(p, {"a.png": picture()}, {"b.png": str(secret), "../c.png": "../secret/s"}),
    )
    put("images", "climbs.tar", lambda p: archive(p, {"../../out.png": picture(), "/abs.png": picture()}))
    put("images", "eps/a.png", text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) run\n"))
    put("images", "svg/a.png", text(f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{secret}"/></svg>'))
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>'
    put("labels", "voc/Annotations/a.xml", text(entity + VOC.format("a.png", "&x;")))
    put(
        "labels",
        "entity.xml",
        text(entity + '<annotations><image id="0" name="0.png"><box label="&x;"/></image></annotations>'),
    )
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    put("labels", "laughs.xml", text(f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><annotations>&l11;</annotations>'))
    put(
        "labels",
        "yolo/data.yaml",
        text(
            f"path: {secret.parent}\ntrain: ../../secret\n"
            f"names: {{0: !!python/object/apply:os.system ['touch {mark}']}}\n"
        ),
    )
    put("labels", "yolo/labels/0.txt", text("0 0.5 0.5 1 1\n"))
    put("labels", "climbs.json", document({**COCO, "images": [{"id": i, "file_name": str(secret)} for i in range(12)]}))
    put("labels", "deep.json", text('{"a":' * 60_000))
    put("assignments", "evil2.npy", lambda p: np.save(p, np.array([Evil(mark)] * 12, object), allow_pickle=True))
    put("archive", "bomb.zip", lambda p: zipfile.ZipFile(p, "w").writestr("../x", "x"))
    return made  # fmt: skip


def damage(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(data), 64 if rng.random() < 0.5 else len(data)) or 1)
        kind = rng.randrange(4)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del data[at : at + rng.randint(1, 8)]
    return bytes(data)


def damaged(folder: Path, number: int, rng: random.Random) -> tuple[str, str]:
    """One damaged input of any format in a folder of its own."""
    here = folder / str(number)
    here.mkdir()
    kind = rng.choices(("array", "labels", "images", "weights", "assignments", "keys"), (8, 8, 3, 1, 2, 2))[0]
    if kind in ("array", "labels"):
        name, write = rng.choice(list((ARRAYS if kind == "array" else LABELS).items()))
    elif kind == "images":
        form = rng.choice(IMAGES)
        name, write = rng.choice(
            [
                ("folder", lambda p: (p.mkdir(), (p / "a.png").write_bytes(picture(form)))),
                ("x.tar", lambda p: archive(p, {"a.png": picture(form), "b.jpg": picture(form)})),
                ("x.parquet", lambda p: pq.write_table(pa.table({"image": [picture(form)] * 3}), p)),
            ]
        )
    elif kind == "weights":
        name, write = "w.pth", lambda p: torch.save({"fc.bias": torch.zeros(9)}, p)
    else:
        name, write = (
            ("a.npy", lambda p: np.save(p, np.arange(12) % 3))
            if kind == "assignments"
            else ("k.txt", text("\n".join(KEYS)))
        )
    write(here / name)
    target = here / name
    files = [target] if target.is_file() else sorted(p for p in target.rglob("*") if p.is_file())
    victim = rng.choice(files)
    victim.write_bytes(damage(victim.read_bytes(), rng))
    return kind, f"{number}/{name}"


def line(kind: str, path: Path, base: Path, number: int) -> list[str]:
    """The command line that takes the input."""
    new = ["--dataset", f"d{number}", "--backbone", f"b{number}"]
    return list(
        map(
            str,
            {
                "array": ["ingest", path, *new],
                "archive": ["ingest", path, *new],
                "images": ["ingest", path.parent if path.name == "a.png" else path, *new, *RANDOM],
                "weights": ["ingest", base / "images", *new, *MODEL, "--weights", path],
                "keys": ["ingest", base / "base.npy", *new, "--keys", path],
                "labels": ["label", path.parent.parent if path.parent.name in ("Annotations", "labels") else path.parent
                           if path.name == "data.yaml" else path, "--dataset", "base", "--concepts", f"c{number}",
                           "--ignore-unknown-keys"],
                "assignments": ["cluster", "--dataset", "base", "--import", path, "--name", f"n{number}"],
            }[kind],
        )
    )  # fmt: skip


def run(words: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = call(words)
    return code, out.getvalue()


def main(base: Path, rounds: int, seed: int) -> dict[str, Any]:
    secret, traps, inputs = base / "secret", base / "traps", base / "inputs"
    for folder in (secret, traps, inputs, base / "images", base / "tmp"):
        folder.mkdir()
    tempfile.tempdir = str(base / "tmp")
    (secret / "s").write_bytes(b"the-secret-of-this-test" * 10)
    for name in ("gs", "sh", "touch", "convert", "unzip"):
        (traps / name).write_text("#!/bin/false\n")
        (traps / name).chmod(0o755)
    np.save(base / "base.npy", X)
    (base / "keys.txt").write_text("\n".join(KEYS))
    (base / "images" / "a.png").write_bytes(picture())
    torch.save(resnet18().state_dict(), base / "w.pth")
    at = ["--store", str(base / "store")]
    for words in (
        ["init"],
        ["ingest", str(base / "base.npy"), "--keys", str(base / "keys.txt"), "--dataset", "base", "--backbone", "b"],
        ["ingest", str(base / "images"), "--dataset", "i", "--backbone", "i", *MODEL, "--weights", str(base / "w.pth")],
    ):
        code, printed = run([*words, *at])
        assert code == 0, printed
    whole = [*(("array", *item) for item in ARRAYS.items()), *(("labels", *item) for item in LABELS.items())]
    for number, (kind, name, write) in enumerate(whole if rounds > 100 else []):  # undamaged, each is taken
        write(inputs / name)
        code, printed = run([*line(kind, inputs / name, base, -number - 1), *at])
        assert code == 0, (name, printed)
    rng = random.Random(seed)
    made = hostile(inputs, secret / "s", base / "ran")
    os.environ["PATH"] = str(traps)
    os.chdir(base)
    watch = Watch(base, secret, traps)
    codes: Counter[int] = Counter()
    violations: list[str] = []
    for number in range(rounds):
        kind, name = made[number] if number < len(made) else damaged(inputs, number, rng)
        words = [*line(kind, inputs / name, base, number), *at]
        watch.on = True
        code, printed = run(words)
        watch.on = False
        codes[code] += 1
        wrong = watch.drain()
        if code not in (0, 3, 4):
            wrong.append(f"exit code {code}: {printed[:500]}")
        if "Traceback" in printed or (base / "ran").exists():
            wrong.append(printed[-500:])
        violations += [f"{name}: {event}" for event in wrong]
        (base / "ran").unlink(missing_ok=True)
        if number >= len(made):
            shutil.rmtree(inputs / str(number))
    watch.on = True
    (secret / "s").read_bytes()
    watch.on = False
    seen = [event.split(" ")[0] for event in watch.drain()]
    assert set(seen) == ({"open", "opened"} if watch.inotify >= 0 else {"open"}), "the watch is blind"
    held = b"".join(path.read_bytes() for path in (base / "store").rglob("*") if path.is_file())
    if b"the-secret-of-this-test" in held:
        violations.append("the secret is in the store")
    return {"codes": dict(codes), "violations": violations, "hostile": len(made)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]))))
