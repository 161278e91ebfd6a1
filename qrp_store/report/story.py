"""The story of report: what the store holds about a dataset's results, on one page that opens anywhere.

gather: the leaderboard, each backbone's clusters in its main setting, typical images. compute: figures, pictures,
HTML. commit: the file appears whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store import __version__, settings
from qrp_store.catalog.entities import clusterings, datasets, results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError, near_names
from qrp_store.execution import available_cores
from qrp_store.export.story import check_output, whole_file
from qrp_store.options import ReportOptions, Several, taken, takes
from qrp_store.progress import Progress, silent
from qrp_store.records import Dataset, preprocessing_line
from qrp_store.rendering.content import ClusterConcept, ClusterView, Gallery, Matched, Picture, PublishedPoint, Report
from qrp_store.report import ranking
from qrp_store.report.claims import claims
from qrp_store.report.published import published as published_beside
from qrp_store.report.published import read_published
from qrp_store.report.ranking import Standing
from qrp_store.report.typical import typical
from qrp_store.samples import shown as shortened
from qrp_store.store import Store

SCHEMA = "qrp-store/report/1"
_CONCEPTS = 8
_PICTURES, _MANY_PICTURES = 6, 12
_MOST_PICTURES = 6000
_FEW_CLUSTERS = 300
_MOST_MATCHES = 25_000
_NAMED = 3


@dataclass(frozen=True)
class ReportReport:
    """What was written: `bytes` long, over `n_results` results in `n_settings` settings. It shows `n_clusters` clusters
    of `n_backbones` backbones with `n_images` thumbnails. Times in seconds."""

    schema: str
    path: str
    bytes: int
    dataset: str
    n_backbones: int
    n_settings: int
    n_results: int
    n_clusters: int
    n_images: int
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Shown:
    """One backbone's result under Clusters, with its clustering and, by position, every image's cluster (−1: none)."""

    gallery: Gallery
    clustering: StoredClustering
    labels: np.ndarray


@takes(ReportOptions)
def report(
    store: Store,
    *,
    dataset: str,
    output: str,
    backbones: Several[str] = (),
    concepts: str | None = None,
    k: int | None = None,
    protocol: str | None = None,
    images: str | None = None,
    no_images: bool = False,
    published: str | None = None,
    progress: Progress = silent,
) -> ReportReport:
    """Write one self-contained HTML page about a dataset's results.

    Arguments are the options of `qrp-store report`, see docs/options.md. Figures and clusters are those of one setting
    among the selected ones: that of most backbones, then most results, then most images a cluster. A folder of `images`
    that does not exist makes a page without pictures. Raise NotFound when there is nothing to report.
    """
    return report_with(store, taken(ReportOptions, locals()), progress)


def report_with(store: Store, options: ReportOptions, progress: Progress) -> ReportReport:
    """Do what `report` does, with its options in one record."""
    from qrp_store.rendering.page import render

    started = time.perf_counter()
    dataset, backbones, concepts = options.dataset, options.backbones, options.concepts
    path = Path(options.output).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput(f"{options.output}: a report is an .html page", hint=f"-o {path.name or 'report'}.html")
    check_output(path)
    figures = read_published(options.published) if options.published is not None else {}
    owner = datasets.get_dataset(store.catalog, dataset)
    protocol = options.protocol
    standing = ranking.standing(store, dataset, backbones=backbones, concepts=concepts, k=options.k, protocol=protocol)
    _check_selection(store, dataset, standing, backbones, {"concepts": concepts, "protocol": protocol})
    points = published_beside(store, dataset, standing.settings[0].rows, figures)
    with progress.task("reading clusters", len(standing.settings[0].rows), "backbones") as task:
        shown = []
        for row in standing.settings[0].rows:
            shown.append(_shown(store, owner, standing, row.backbone))
            task.advance()
    notes: list[str] = []
    pictures: tuple[Picture, ...] = ()
    if not options.no_images:
        shown, pictures = _with_pictures(store, owner, shown, options.images, notes, progress)
    page = _content(store, owner, standing, shown, points, pictures, tuple(notes))
    gathered = time.perf_counter() - started
    text = render(page).encode("utf-8", "replace")
    with whole_file(path) as partial:
        partial.write_bytes(text)
    return ReportReport(
        schema=SCHEMA,
        path=str(path),
        bytes=len(text),
        dataset=dataset,
        n_backbones=len(page.main.rows),
        n_settings=len(page.settings),
        n_results=sum(len(row.seeds) for setting in page.settings for row in setting.rows),
        n_clusters=page.n_clusters,
        n_images=len(pictures),
        timings={"gather_s": gathered, "total_s": time.perf_counter() - started},
    )


def _check_selection(
    store: Store, dataset: str, standing: Standing, backbones: Sequence[str], others: Mapping[str, str | None]
) -> None:
    """Raise NotFound unless there is something to report and each selected backbone has some of it."""
    shown = {row.backbone for setting in standing.settings for row in setting.rows}
    rows = list(
        store.sql("SELECT DISTINCT backbone, concepts, protocol FROM leaderboard WHERE dataset = ?", (dataset,))
    )
    missing = [("backbone", name) for name in backbones if name not in shown]
    for column, name in [*missing, *((column, name) for column, name in others.items() if name is not None)]:
        known = sorted({row[column] for row in rows})
        if known and name not in known:
            raise NotFound(f"dataset {dataset!r} has no results of {column} {name!r}", hint=near_names(name, known))
    if missing or not standing.settings:
        of = f" of {missing[0][1]!r}" if missing and standing.settings else ""
        raise NotFound(
            f"dataset {dataset!r} has no results{of} like that to report",
            hint=f"qrp-store leaderboard; or make some: qrp-store evaluate --dataset {dataset}",
        )


def _shown(store: Store, owner: Dataset, standing: Standing, backbone: str) -> _Shown:
    """The clusters of a backbone's first seed in the main setting."""
    result = standing.of(standing.settings[0], backbone)[0]
    clustering = clusterings.by_id(store.catalog, result["clustering_id"])
    concepts: dict[int, list[ClusterConcept]] = {}
    query = "SELECT cluster, concept, concept_group, weight, lift, n FROM cluster_concepts WHERE result_id = ?"
    for row in store.sql(
        f"{query} AND rank <= ? AND (weight > 0 OR rank = 1) ORDER BY cluster, rank", (result["id"], _CONCEPTS)
    ).table.rows:
        concepts.setdefault(row[0], []).append(ClusterConcept(*row[1:]))
    query = (
        "SELECT cluster, n_test, cross_entropy_nats, top1, mi_nats, cross_entropy_lo, cross_entropy_hi, "
        "val_cross_entropy_nats, top_concept FROM cluster_scores WHERE result_id = ? ORDER BY cluster"
    )
    views = tuple(
        ClusterView(
            *(row[0], clustering.sizes[row[0]], row[1], row[2], row[3], row[4], tuple(concepts.get(row[0], ()))),
            lo=row[5],
            hi=row[6],
            val_cross_entropy=row[7],
            title=row[8],
        )
        for row in store.sql(query, (result["id"],)).table.rows
    )
    positions, clusters, _ = clusterings.assignments(store.catalog, clustering.artifact.id)
    labels = np.full(owner.n, -1, np.int32)
    labels[positions] = clusters
    gallery = Gallery(backbone, result["id"], result["seed"], result["nmi"], views)
    return _Shown(gallery, clustering, labels)


def _with_pictures(
    store: Store, owner: Dataset, shown: list[_Shown], images: str | None, notes: list[str], progress: Progress
) -> tuple[list[_Shown], tuple[Picture, ...]]:
    """The same with thumbnails of typical images; what there is to say about missing ones goes into `notes`."""
    folder = _images_folder(store, owner, images)
    if isinstance(folder, str):
        notes.append(f"Without pictures: {folder}.")
        progress.warn(f"a page without pictures: {folder}; --images FOLDER names one, --no-images asks for none")
        return shown, ()
    from qrp_store.rendering.thumbnails import pictures

    n = sum(len(s.gallery.clusters) for s in shown)
    top = _MANY_PICTURES if n <= _FEW_CLUSTERS else _PICTURES
    chosen = []
    for one in shown:
        try:
            chosen.append(typical(store, one.clustering, top))
        except QrpStoreError as error:
            progress.warn(f"no pictures for {one.gallery.backbone}: {error.message}")
            chosen.append(np.full((one.clustering.row.clusters, top), -1, np.int64))
    positions = list(_by_interest(shown, chosen))[:_MOST_PICTURES]
    names = datasets.keys_at(store.catalog, owner, positions)
    digests = None
    if folder.recorded:  # whoever wrote the catalog named it: only what was ingested may go onto the page
        digests = {names[p]: digest for p, digest in datasets.digests_at(store.catalog, owner, positions).items()}
    with progress.task("making thumbnails", len(positions), "images") as task:
        thumbnails, failed = pictures(
            folder.path,
            [names[p] for p in positions],
            threads=min(4, available_cores()),
            digests=digests,
            seen=task.advance,
        )
    if failed:
        some = ", ".join(shortened(key) for key in failed[:_NAMED]) + (", …" if len(failed) > _NAMED else "")
        what = f"could not be read{' or are not what was ingested' if folder.recorded else ''} below"
        notes.append(f"{_images(len(failed))} {what} {folder.path.name}: {some}.")
        advice = f"; --images {folder.path} shows all that can be read" if folder.recorded else ""
        progress.warn(f"{len(failed):,} of {len(positions):,} images {what} {folder.path}: {some}{advice}")
    place = {key: i for i, key in enumerate(thumbnails)}
    at = {position: place[key] for position, key in names.items() if key in place}
    return [_pictured(*pair, at) for pair in zip(shown, chosen, strict=True)], tuple(thumbnails.values())


def _images(n: int) -> str:
    return f"{n:,} image{'' if n == 1 else 's'}"


def _images_folder(store: Store, owner: Dataset, images: str | None) -> settings.ImagesFolder | str:
    """The folder of the images, or why there is none."""
    folder = settings.images_folder(images, datasets.image_root(store.catalog, owner))
    if folder is None:
        return f"{owner.name} was not ingested from an image folder"
    return folder if folder.path.is_dir() else f"there is no folder {folder.path}"


def _by_interest(shown: Sequence[_Shown], chosen: Sequence[np.ndarray]) -> Iterator[int]:
    """Positions of typical images, once each: those of every backbone's most and least explainable clusters first."""

    def clusters(gallery: Gallery) -> Iterator[int]:
        known = sorted(gallery.clusters, key=lambda c: c.order)
        half = (len(known) + 1) // 2
        ends = zip_longest(known[:half], reversed(known[half:]))
        yield from (c.number for c in chain.from_iterable(ends) if c is not None)

    rows = [[table[number].tolist() for number in clusters(s.gallery)] for s, table in zip(shown, chosen, strict=True)]
    several = (row for turn in zip_longest(*rows) for row in turn if row is not None)
    yield from dict.fromkeys(position for row in several for position in row if position >= 0)


def _pictured(one: _Shown, table: np.ndarray, at: Mapping[int, int]) -> _Shown:
    views = tuple(
        replace(view, pictures=tuple(at[p] for p in table[view.number].tolist() if p in at))
        for view in one.gallery.clusters
    )
    return replace(one, gallery=replace(one.gallery, clusters=views))


def _content(
    store: Store,
    owner: Dataset,
    standing: Standing,
    shown: Sequence[_Shown],
    points: tuple[PublishedPoint, ...],
    pictures: tuple[Picture, ...],
    notes: tuple[str, ...],
) -> Report:
    main = standing.settings[0]
    newest = max(row["created_at"] for rows in standing.results.values() for row in rows)
    first = results.by_id(store.catalog, shown[0].gallery.result_id)
    return Report(
        dataset=owner.name,
        n=owner.n,
        n_concepts=first.row["n_concepts"],
        settings=standing.settings,
        across_k=ranking.across_k(standing),
        groups=ranking.groups(store, standing),
        histories=ranking.histories(store, standing),
        forward=ranking.forward(store, owner.name, standing),
        published=points,
        galleries=tuple(s.gallery for s in shown),
        matches=tuple(_matches(shown)),
        pictures=pictures,
        notes=notes,
        made_of=tuple(_made_of(store, owner, main.concepts, shown)),
        newest=newest,
        version=__version__,
        claims=claims(owner.name, main, standing.of(main, main.rows[0].backbone)),
        series=ranking.series(store, owner.name, main),
        rule=ranking.RULE,
    )


def _matches(shown: Sequence[_Shown]) -> Iterator[Matched]:
    """Both directions of every pair of backbones, pairs with the best ones first, until there are enough."""
    from qrp_store.rendering.matching import overlaps

    pairs = sorted((i + j, i, j) for i in range(len(shown)) for j in range(i + 1, len(shown)))
    room = _MOST_MATCHES
    for _, i, j in pairs:
        k = shown[i].clustering.row.clusters, shown[j].clustering.row.clusters
        if (room := room - sum(k)) < 0:
            return
        both = (shown[i].labels >= 0) & (shown[j].labels >= 0)
        a, b = shown[i].labels[both], shown[j].labels[both]
        for first, second, one, other, size in ((i, j, a, b, k), (j, i, b, a, k[::-1])):
            best, share = overlaps(one, other, size)
            yield Matched(first, second, tuple(best.tolist()), tuple(share.tolist()))


def _made_of(
    store: Store, owner: Dataset, concepts: str, shown: Sequence[_Shown]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Data, options and versions, as titled lists of facts."""
    first = results.by_id(store.catalog, shown[0].gallery.result_id)
    row, spec = first.row, first.artifact.spec
    yield (
        "Data",
        {
            "dataset": owner.name,
            "images": f"{owner.n:,}",
            "keys (sha256)": owner.fingerprint,
            "concepts": ", ".join(
                _versioned(part.artifact) for part in results.concepts_of(store.catalog, first.artifact.id)
            ),
            "concepts used": f"{row['n_concepts']:,}",
            "train / validation / test": " / ".join(f"{row[n]:,}" for n in ("n_train", "n_val", "n_test")),
        },
    )
    yield "Probe", {**_flat(spec["options"]), "setting": row["setting"]}
    yield "Clusters", _flat(shown[0].clustering.artifact.spec.get("options") or {})
    for one in shown:
        stored = results.by_id(store.catalog, one.gallery.result_id)
        backbone = datasets.find_backbone(store.catalog, one.gallery.backbone)
        yield (
            f"Backbone {one.gallery.backbone}",
            {
                **_flat(_described(backbone.spec) if backbone else {"clustering": "imported"}),
                "vectors": f"{one.clustering.row.n:,} × {one.clustering.row.dim or '?'}",
                "clustering": one.clustering.artifact.id,
                "result": one.gallery.result_id,
                "made": f"{stored.artifact.created_at} by {stored.artifact.created_by}",
                **_flat(stored.artifact.provenance.get("versions") or {}),
            },
        )


def _described(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's spec with its preprocessing in one line."""
    line = preprocessing_line(spec.get("preprocessing"))
    return dict(spec) if line is None else {**spec, "preprocessing": line}


def _versioned(artifact: Any) -> str:
    return f"{artifact.name}@{artifact.version}"


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A document as name → text, nested names joined by dots; what is unset is left out."""
    flat: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return flat
