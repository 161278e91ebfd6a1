"""The story of evaluate: from embeddings to ranked, versioned results, reusing whatever exists.

gather: the embeddings, the concept sets, the clustering (made when there is none). compute: train the reverse probe
on the stored split and score it on the test part. commit: weights first, then the result with its per-cluster rows
in one short transaction. Here stands what is asked for and reported; each result's way in `evaluation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qrp_store.catalog.entities import concept_sets, datasets, embeddings
from qrp_store.cluster.grouped import groups_of
from qrp_store.cluster.imported import named
from qrp_store.cluster.story import ClusterOptions
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.evaluate.curve import flips as order_flips
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.evaluation import Evaluation, Unit
from qrp_store.evaluate.extras import QUERIES, Wanted
from qrp_store.evaluate.forecast import Estimate, forecast
from qrp_store.evaluate.plan import Job, Plan, Turn, plan
from qrp_store.evaluate.result import Result
from qrp_store.probing.reverse import ProbeOptions
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


def evaluate(
    store: Store,
    *,
    dataset: str,
    backbones: Sequence[str] = (),
    concepts: Sequence[str] = (),
    imported: Sequence[str] = (),
    k: Sequence[int] = (1000,),
    seeds: Sequence[int] | None = None,
    protocol: str = "laina2022",
    solver: str | None = None,
    epochs: int = 100,
    batch_size: int = 512,
    lr: float = 3.5,
    momentum: float = 0.9,
    weight_decay: float = 3e-6,
    bootstrap: int = 1000,
    permute: bool = False,
    permutations: int = 0,
    ablate: bool = False,
    labelled_only: bool = False,
    min_count: int = 0,
    only_verified: bool = False,
    group_by: str | None = None,
    forward: bool = False,
    knn_queries: int = QUERIES,
    curve: bool = False,
    thresholds: Sequence[float] = (),
    soft: bool = False,
    dry_run: bool = False,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
    **clustering: Any,
) -> EvaluateReport:
    """Score every backbone × concept set × K × seed of a dataset.

    `imported` names clusterings (imported ones by name, others by id), scored as they are (and alone, unless backbones
    are named too). `seeds` None: 0, and for a clustering by id its own.
    `concepts` names sets (`C`, `C@N`, or `C1+C2` joined; default: each alone); `clustering` holds `cluster`'s other
    options. `permutations` adds a null distribution from so many controls; `ablate` each concept group's scores, alone
    and left out; `group_by` names a file of key,group rows whose groups are not torn apart by the split. `forward`
    adds the usual probes, from embedding to concepts, the nearest neighbours of at most `knn_queries` samples (0: all);
    `curve` scores with less data and fewer concepts, `thresholds` those with surer labels only; `soft` takes labels by
    their score instead of 1.
    `force` makes new versions of results, not of clusterings. One backbone's failure keeps the others.
    """
    started = time.perf_counter()
    options = ProbeOptions(
        protocol=protocol,  # type: ignore[arg-type]
        solver=solver,  # type: ignore[arg-type]
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    if min(bootstrap, min_count, permutations) < 0:
        asked_for = f"--bootstrap {bootstrap}, --min-count {min_count} and --permutations {permutations}"
        raise InvalidInput(f"{asked_for} must be at least 0")
    if permute and permutations:
        raise InvalidInput("--permute is a control itself: it has no --permutations")
    request = ProbeRequest(
        options=options,
        bootstrap=bootstrap,
        permute=permute,
        labelled_only=labelled_only,
        min_count=min_count,
        ablate=ablate,
        permutations=permutations,
        soft=soft,
        only_verified=only_verified,
        device=clustering.get("device", "auto"),
    )
    wanted = Wanted(forward, knn_queries, curve, tuple(sorted(set(thresholds))))
    owner = datasets.get_dataset(store.catalog, dataset)
    names = _each_once(backbones, lambda name: embeddings.get(store.catalog, dataset, *split_version(name)).artifact.id)
    if not names and not imported:
        names = embeddings.backbones(store.catalog, dataset)
    if not names and not imported:
        raise NotFound(f"dataset {dataset!r} has no embeddings", hint="qrp-store ingest")
    asked_sets = [_concepts(store, dataset, name) for name in _concept_names(store, dataset, concepts)]
    vocabularies = list({joined.name: joined for joined in asked_sets}.values())
    base = ClusterOptions.of(**clustering)
    groups = groups_of(store, owner, group_by) if group_by is not None else None
    # what is named twice is done once
    seeds, sizes = tuple(dict.fromkeys(seeds or ())), dict.fromkeys(k)
    turns = [Turn(name, seed, replace(base, k=n, seed=seed)) for name in names for n in sizes for seed in seeds or (0,)]
    there = _each_once(imported, lambda reference: _grouping(store, dataset, reference))
    turns += [Turn(name, seed, None) for name in there for seed in seeds or (None,)]
    planned = plan(Job(store, owner, request, groups, wanted, force), turns, vocabularies)
    execution = Evaluation(planned, wait, progress)
    units = [] if dry_run else execution.run()
    done = [unit.result for unit in units if unit.result is not None]
    errors = _failures(planned, execution.failed, units)
    errors += [_nothing_to_explain(result) for result in done if result.nmi is None]
    lines, estimate = forecast(planned, vocabularies, base) if dry_run else ((), None)
    flips = tuple(order_flips(done))
    for flip in flips:
        if min(-flip["by"], flip["ahead"]) >= _SHOWN:
            point = "{concepts}, K {clusters}, seed {seed}, {fraction:g} of the {axis}, draw {draw}".format(**flip)
            told = "{better}, {ahead:.3f} before {worse} with everything, is {behind:.3f} behind it"
            progress.note(f"{point}: {told.format(**flip, behind=-flip['by'])}")
    timings = {"total_s": time.perf_counter() - started}
    kind = errors[0]["kind"] if errors else None
    first = {name: errors[0][name] for name in ("kind", "message", "hint")} if errors else None
    return EvaluateReport(SCHEMA, tuple(done), tuple(errors), timings, lines, estimate, flips, kind, first)


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
        where = {"backbone": turn.name, "clusters": turn.asked.k if turn.asked else None, "seed": turn.seed}
        distinct: dict[QrpStoreError, str | None] = {failed[turn]: None} if turn in failed else {}
        for owner, concepts, error in of_items:
            if owner is turn and error is not None:
                distinct.setdefault(error, concepts)
        for error, name in distinct.items():
            about = {**where, "concepts": name}
            errors.append({**about, "kind": error.kind, "message": error.message, "hint": error.hint})
    return errors


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
