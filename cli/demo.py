"""demo: the main job on real images; every step shows the command that a user would type."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from . import output
from .session import Session, command

CLUSTERS = 32
SEEDS = ("0", "1", "2")
BEST_CLUSTERS = """\
SELECT cluster, n_test, cross_entropy_nats, cross_entropy_lo, cross_entropy_hi, \
(SELECT group_concat(concept, ', ') FROM (SELECT concept FROM \
cluster_concepts c WHERE c.result_id = s.result_id AND c.cluster = s.cluster AND n >= 5 ORDER BY rank LIMIT 4)) AS \
concepts FROM cluster_scores s WHERE result_id = '{result}' AND n_test >= 10 \
ORDER BY val_cross_entropy_nats LIMIT 8"""
BEST_RESULT = (
    "SELECT r.id, r.backbone FROM results r WHERE NOT r.permuted AND r.clusters = {k} ORDER BY r.nmi DESC LIMIT 1"
)
LEADERBOARD = "SELECT * FROM leaderboard WHERE dataset = 'openmoji' AND clusters = {k} ORDER BY rank"


def register(app: typer.Typer) -> None:
    def demo(
        session: Session,
        directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder for data and store.")] = Path(
            "qrp-demo"
        ),
    ) -> None:
        """Rank four backbones on 3,953 drawings from Python packages; about four minutes, later runs seconds."""
        _demo(session, directory, lambda arguments: _run(app, arguments))

    command(app, "demo", example="qrp-store demo\nqrp-store demo somewhere/else")(demo)


def _demo(session: Session, directory: Path, run: Callable[[list[str]], None]) -> None:
    from qrp_store.demo import LICENCES, make_data

    store = session.store or str(directory / "store")
    steps: list[str] = []
    # with --json only the document goes to stdout
    talk = contextlib.redirect_stdout(sys.stderr) if session.as_json else contextlib.nullcontext()

    def step(title: str, *arguments: str) -> None:
        steps.append(" ".join(["qrp-store", *map(_quoted, arguments)]))
        output.write(f"\n# {title}\n$ {steps[-1]}")
        run(["--store", store, *(["--quiet"] if session.quiet else []), *arguments])

    with talk:
        output.write(f"# Draw OpenMoji, write down what people call them, copy ImageNet weights: {directory}/")
        data = make_data(directory, session.progress)
        session.progress.close()
        output.write(f"{data.n:,} images, {'drawn' if data.made else 'already there'}\n{LICENCES.rstrip()}")
        output.write(f"\n$ export QRP_STORE={shlex.quote(store)}")
        _fill(data, step)
        best = _best(session, store)
        query = BEST_CLUSTERS.format(result=best["id"])
        step(
            f"The clusters of {best['backbone']} that a person would understand best, chosen by validation "
            "(nats left to guess on test images)",
            "sql",
            query,
        )
        page = str(directory / "report.html")
        step(
            "All of it on one page, with the drawings: open it in a browser",
            *("report", "--dataset", "openmoji", "-k", str(CLUSTERS), "--images", str(data.images), "-o", page),
        )
        output.write(_next(directory, store, best["id"]))
    if session.as_json:
        with _open(session, store) as opened:
            ranked = list(opened.sql(LEADERBOARD.format(k=CLUSTERS)))
            clusters = list(opened.sql(query))
        report = {
            "schema": "qrp-store/demo/1",
            "directory": str(directory),
            "store": store,
            "n": data.n,
            "commands": steps,
            "report": page,
            "leaderboard": ranked,
            "best_clusters": {"result_id": best["id"], "rows": clusters},
            "licences": LICENCES.splitlines(),
        }
        output.write(output.to_json(report))


def _fill(data: Any, step: Callable[..., None]) -> None:
    """The steps from an empty store to the leaderboard."""
    images, named = str(data.images), ("--dataset", "openmoji", "--backbone")
    step("Make the store", "init")
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        model = (
            "--arch",
            f"timm/{name.replace('-', '_')}",
            "--weights",
            str(data.weights(name)),
            "--image-size",
            "128",
        )
        step(f"Embed the images with {name}, trained on ImageNet", "ingest", images, *named, name, *model)
    model = ("--arch", "timm/efficientnet_lite0", "--weights", "random", "--image-size", "128")
    step("A floor: the same network, never trained", "ingest", images, *named, "random", *model)
    pixels = (str(data.pixels), "--keys", str(data.keys))
    step("Another floor: 16 × 16 pixels, an array made elsewhere", "ingest", *pixels, *named, "pixels-16")
    step("What people call them", "label", str(data.concepts), "--dataset", "openmoji", "--concepts", "emoji")
    step(
        f"Quantize into {CLUSTERS} clusters, predict them from the concepts, score; three seeds",
        *("evaluate", "--dataset", "openmoji", "-k", str(CLUSTERS), "--seed", *SEEDS),
    )
    step("Backbones ranked by how much human-nameable information they encode", "leaderboard", "--dataset", "openmoji")


def _quoted(word: str) -> str:
    """Quote a word for a shell; a query with single quotes reads best in double quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _best(session: Session, store: str) -> dict[str, Any]:
    with _open(session, store) as opened:
        return dict(opened.sql(BEST_RESULT.format(k=CLUSTERS))[0])


def _open(session: Session, store: str) -> Any:
    from qrp_store.store import open_store

    return open_store(store, session.arrays)


def _run(app: typer.Typer, arguments: list[str]) -> None:
    code = get_command(app)(args=arguments, prog_name="qrp-store", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def _next(directory: Path, store: str, result: str) -> str:
    return f"""
# These are a few thousand drawings: they show how it works, not how backbones rank on photographs.
# What to try next:
$ qrp-store serve --store {shlex.quote(store)} --open
$ qrp-store show {result}
$ qrp-store evaluate --dataset openmoji -k 64 --protocol tight
$ qrp-store evaluate --dataset openmoji -k {CLUSTERS} --permute
$ sqlite3 {shlex.quote(store)}/catalog.db "SELECT * FROM leaderboard"
$ qrp-store ingest YOUR/IMAGES --dataset mine --backbone r50 --arch torchvision/resnet50 --weights YOUR.pth"""
