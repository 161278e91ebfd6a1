"""The story of evaluate: from embeddings to ranked, versioned results, reusing whatever exists.

gather: the embeddings, the concept sets, the clustering (made when there is none). compute: train the reverse probe
on the stored split and score it on the test part. commit: weights first, then the result with its per-cluster rows
in one short transaction. Here stands what is asked for and reported; each result's way in `evaluation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qrp_store.catalog.entities import concept_sets, datasets, embeddings
from qrp_store.cluster.grouped import groups_of
from qrp_store.cluster.imported import named
from qrp_store.cluster.story import automatic_k_note
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.evaluate.curve import flips as order_flips
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.evaluation import Evaluation, Unit
from qrp_store.evaluate.forecast import Estimate, forecast
from qrp_store.evaluate.plan import Job, Plan, Turn, plan
from qrp_store.evaluate.result import Result
from qrp_store.options import (
    Engine,
    EvaluateRun,
    EvaluateSelection,
    ExtraOptions,
    Init,
    KMeansTraining,
    Match,
    ProbeOptions,
    Protocol,
    ScoreOptions,
    Several,
    Solver,
    automatic_k,
    taken,
    takes,
)
from qrp_store.progress import Progress, silent
from qrp_store.store import Store, split_version

SCHEMA = "qrp-store/evaluate/1"
_SHOWN = 0.0005  # of an NMI: what three decimals show


@dataclass(frozen=True)
class EvaluateReport:
    """Every result asked for, and what went wrong with the others; `error` and `exit_kind` are the first failure's."""

    schema: str
    results: tuple[Result, ...]
    errors: tuple[dict[str, Any], ...]
    timings: dict[str, float]
    plan: tuple[dict[str, Any], ...] = ()
    estimate: Estimate | None = None
    flips: tuple[dict[str, Any], ...] = ()
    exit_kind: str | None = None
    error: dict[str, Any] | None = None


@takes(EvaluateSelection, ProbeOptions, ScoreOptions, ExtraOptions, KMeansTraining, EvaluateRun)
def evaluate(
    store: Store,
    *,
    # what to score
    dataset: str,
    backbones: Several[str] = (),
    concepts: Several[str] = (),
    imported: Several[str] = (),
    k: Several[int | Literal["auto"]] = ("auto",),
    seeds: Several[int] = (),
    group_by: str | None = None,
    match: Match = "key",
    # how the probe is trained
    protocol: Protocol = "laina2022",
    solver: Solver | None = None,
    epochs: int = 100,
    batch_size: int = 512,
    lr: float = 3.5,
    momentum: float = 0.9,
    weight_decay: float = 3e-6,
    # what is computed with the score
    bootstrap: int = 1000,
    permute: bool = False,
    permutations: int = 0,
    ablate: bool = False,
    labelled_only: bool = False,
    only_verified: bool = False,
    min_count: int = 0,
    soft: bool = False,
    sample_eval: int | None = None,
    # what is scored in addition
    forward: bool = False,
    knn_queries: int = 20_000,
    curve: bool = False,
    thresholds: Several[float] = (),
    upper: bool = False,
    mdl: bool = False,
    # how K-means is trained, and where
    niter: int = 25,
    sample: int | Literal["all"] | None = None,
    init: Init = "random",
    nredo: int = 1,
    normalize: bool = False,
    spherical: bool = False,
    engine: Engine = "auto",
    device: str = "auto",
    memory: str | int = "2GB",
    workers: int | None = None,
    scheduler: str | None = None,
    # what happens to what exists
    dry_run: bool = False,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> EvaluateReport:
    """Score every backbone × concept set × K × seed of a dataset.

    Arguments are the options of `qrp-store evaluate`, see docs/options.md; where several values may be given, one alone
    will do. `imported` names existing clusterings (imported ones by name, others by id), scored as they are, and alone
    unless backbones are named too. `seeds` () means 0, and for a clustering by id its own seed. `force` makes new
    versions of results, not of clusterings. The failure of one backbone keeps the results of the others.
    """
    given = locals()
    return evaluate_with(
        store,
        taken(EvaluateSelection, given),
        taken(ProbeOptions, given),
        taken(ScoreOptions, given),
        taken(ExtraOptions, given),
        taken(KMeansTraining, given),
        taken(EvaluateRun, given),
        progress,
    )


def evaluate_with(
    store: Store,
    selection: EvaluateSelection,
    probe: ProbeOptions,
    score: ScoreOptions,
    wanted: ExtraOptions,
    training: KMeansTraining,
    how: EvaluateRun,
    progress: Progress,
) -> EvaluateReport:
    """Do what `evaluate` does, with its options in records."""
    started = time.perf_counter()
    dataset, dry_run = selection.dataset, how.dry_run
    request = ProbeRequest(options=probe, device=training.device, **vars(score))
    owner = datasets.get_dataset(store.catalog, dataset)
    vocabularies = _vocabularies(store, dataset, selection.concepts)
    groups = None
    if selection.group_by is not None:
        groups = groups_of(store, owner, selection.group_by, selection.match)
    elif selection.match != "key":
        raise InvalidInput("--match is for the keys of a --group-by table", hint="leave it out, or give --group-by")
    turns = _turns(store, selection, training, progress)
    job = Job(store, owner, request, groups, wanted, how.force, training.scheduler)
    planned = plan(job, turns, vocabularies)
    execution = Evaluation(planned, how.wait, progress)
    units = [] if dry_run else execution.run()
    done = [unit.result for unit in units if unit.result is not None]
    errors = _failures(planned, execution.failed, units)
    errors += [_nothing_to_explain(result) for result in done if result.nmi is None]
    lines, estimate = forecast(planned, vocabularies, training) if dry_run else ((), None)
    flips = tuple(order_flips(done))
    for flip in flips:
        if min(-flip["by"], flip["ahead"]) >= _SHOWN:
            point = "{concepts}, K {clusters}, seed {seed}, {fraction:g} of the {axis}, draw {draw}".format(**flip)
            text = "{better} leads {worse} by {ahead:.3f} on all data but trails by {behind:.3f} here"
            progress.note(f"{point}: {text.format(**flip, behind=-flip['by'])}")
    timings = {"total_s": time.perf_counter() - started}
    kind = errors[0]["kind"] if errors else None
    first = {name: errors[0][name] for name in ("kind", "message", "hint")} if errors else None
    return EvaluateReport(SCHEMA, tuple(done), tuple(errors), timings, lines, estimate, flips, kind, first)


def _turns(store: Store, selection: EvaluateSelection, training: KMeansTraining, progress: Progress) -> list[Turn]:
    """Return each backbone, K and seed, then each existing clustering; whatever is named twice comes once."""
    dataset, seeds = selection.dataset, tuple(dict.fromkeys(selection.seeds))
    names = _each_once(
        selection.backbones,
        lambda name: embeddings.get(store.catalog, dataset, *split_version(name)).artifact.id,
    )
    if not names and not selection.imported:
        names = embeddings.backbones(store.catalog, dataset)
        if not names:
            raise NotFound(f"dataset {dataset!r} has no embeddings", hint="qrp-store ingest")
    turns = []
    for name in names:
        sizes = dict.fromkeys(_sizes(store, dataset, name, selection.k, progress))
        turns += [Turn(name, seed, training.at(k, seed)) for k in sizes for seed in seeds or (0,)]
    existing = _each_once(selection.imported, lambda reference: _grouping(store, dataset, reference))
    return turns + [Turn(name, seed, None) for name in existing for seed in seeds or (None,)]


def _sizes(
    store: Store, dataset: str, backbone: str, sizes: Sequence[int | Literal["auto"]], progress: Progress
) -> list[int | Literal["auto"]]:
    """Return every K as a number; auto stays where the backbone has no embedding, which its turn then reports."""
    if "auto" not in sizes:
        return list(sizes)
    try:
        stored = embeddings.get(store.catalog, dataset, *split_version(backbone))
    except (NotFound, InvalidInput):
        return list(sizes)
    progress.note(automatic_k_note(stored))
    return [automatic_k(stored.usable) if k == "auto" else k for k in sizes]


def _each_once(names: Sequence[str], meaning: Callable[[str], str]) -> list[str]:
    """Names without those that mean the same as one before; what is not there is told when its turn comes."""
    once: dict[str, str] = {}
    for name in names:
        try:
            once.setdefault(meaning(name), name)
        except (NotFound, InvalidInput):
            once.setdefault(name, name)
    return list(once.values())


def _grouping(store: Store, dataset: str, reference: str) -> str:
    stored, seed = named(store, dataset, reference, None)
    return f"{stored.artifact.id} {seed}"


def _failures(planned: Plan, failed: Mapping[Turn, QrpStoreError], units: Sequence[Unit]) -> list[dict[str, Any]]:
    """What went wrong, in the order of the request; once for what is common to several results."""
    of_items = [(item.turn, item.joined.name, item.error) for item in planned.items]
    of_items += [(unit.item.turn, unit.item.joined.name, unit.error) for unit in units]
    errors = []
    for turn in planned.turns:
        where = {"backbone": turn.name, "clusters": _number_of_clusters(turn), "seed": turn.seed}
        distinct: dict[QrpStoreError, str | None] = {failed[turn]: None} if turn in failed else {}
        for owner, concepts, error in of_items:
            if owner is turn and error is not None:
                distinct.setdefault(error, concepts)
        for error, name in distinct.items():
            about = {**where, "concepts": name}
            errors.append({**about, "kind": error.kind, "message": error.message, "hint": error.hint})
    return errors


def _number_of_clusters(turn: Turn) -> int | None:
    return None if turn.options is None or turn.options.k == "auto" else turn.options.k


def _nothing_to_explain(result: Result) -> dict[str, Any]:
    return {
        "backbone": result.backbone,
        "clusters": result.clusters,
        "seed": result.seed,
        "concepts": result.concepts,
        "kind": InvalidInput.kind,
        "message": f"{result.id}: all test images are in one cluster; its entropy is 0 and there is nothing to explain",
        "hint": "look at the embedding, or use more clusters",
    }


def _vocabularies(store: Store, dataset: str, asked: Sequence[str]) -> list[JoinedConcepts]:
    """Return the concept sets that are named, or all of the dataset."""
    sets = [_concepts(store, dataset, name) for name in _concept_names(store, dataset, asked)]
    return list({joined.name: joined for joined in sets}.values())


def _concept_names(store: Store, dataset: str, asked: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(asked)) or concept_sets.names(store.catalog, dataset)
    if not names:
        raise NotFound(
            f"dataset {dataset!r} has no concepts yet", hint=f"qrp-store label FILE --dataset {dataset} --concepts NAME"
        )
    return names


def _concepts(store: Store, dataset: str, name: str) -> JoinedConcepts:
    """The sets that C1+C2 names. A version that is the newest goes by the plain name."""
    parts = []
    shown = []
    for piece in name.split("+"):
        plain, version = split_version(piece)
        stored = concept_sets.get(store.catalog, dataset, plain, version)
        newest = version is None or concept_sets.get(store.catalog, dataset, plain).artifact.version == version
        parts.append(stored)
        shown.append(plain if newest else piece)
    if len({p.artifact.id for p in parts}) < len(parts):
        raise InvalidInput(f"concepts {name!r}: the same set stands there twice")
    return JoinedConcepts("+".join(shown), tuple(parts))
