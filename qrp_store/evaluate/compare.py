"""The story of compare: the difference of two results, paired over their common test samples."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import datasets
from qrp_store.errors import Corrupt, InvalidInput
from qrp_store.evaluate.data import load
from qrp_store.evaluate.rerun import TOLERANCE, ResultInputs, inputs_of
from qrp_store.options import PairOptions, takes
from qrp_store.probing.paired import difference_interval, nmi, plug_in
from qrp_store.records import TEST
from qrp_store.store import Store

SCHEMA = "qrp-store/compare/1"
CONDITIONAL = (
    "The interval is conditional on one clustering and one split: it is no test of the backbones. "
    "Over seeds: qrp-store compare BACKBONE BACKBONE --dataset D"
)
_NO_TRAINING = ("bootstrap", "ablate", "permutations")


@dataclass(frozen=True)
class Side:
    """One of the two results: `nmi_common` on the common test samples, `nmi_stored` on all of its test samples.

    `nmi` is the older name of `nmi_common`.
    """

    id: str
    dataset: str
    backbone: str
    concepts: str
    clusters: int
    seed: int
    protocol: str
    nmi: float
    nmi_common: float
    nmi_stored: float
    n_test: int


@dataclass(frozen=True)
class CompareReport:
    """`difference` = NMI of a − NMI of b on `n_common` test samples; `ci`: its 95 % interval, None without bootstrap.

    `differs` lists which of dataset, concepts and protocol differ. `conditional` is always True: the interval holds
    only for these clusterings, as `note` explains.
    """

    schema: str
    a: Side
    b: Side
    difference: float
    ci: tuple[float, float] | None
    n_common: int
    differs: tuple[str, ...]
    conditional: bool
    note: str
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Tested:
    """A result's test samples: position (n,), cluster (n,), ln q of that cluster (n,)."""

    positions: np.ndarray
    clusters: np.ndarray
    log_q: np.ndarray


@takes(PairOptions)
def compare(
    store: Store, first: str, second: str, *, anyway: bool = False, bootstrap: int = 1000, seed: int = 0
) -> CompareReport:
    """Return the difference of two results' NMI, with a paired bootstrap interval.

    Raise InvalidInput if dataset, concepts or protocol differ (unless `anyway`), or if too few samples are common.
    Raise Corrupt if the stored weights do not give the stored score.
    """
    started = time.perf_counter()
    how = PairOptions(anyway=anyway, bootstrap=bootstrap, seed=seed)
    a, b = (inputs_of(store, reference, "cpu") for reference in (first, second))
    differs = _differs(a, b)
    if differs and not how.anyway:
        raise InvalidInput(
            f"{a.result.artifact.id} and {b.result.artifact.id} answer different questions: {'; '.join(differs)}",
            hint="--anyway compares them nevertheless",
        )
    pairs = paired_scores(store, a, b)
    scores = [nmi(pair[:, 0], pair[:, 1]) for pair in pairs]
    return CompareReport(
        schema=SCHEMA,
        a=_side(a, scores[0]),
        b=_side(b, scores[1]),
        difference=scores[0] - scores[1],
        ci=difference_interval(pairs[0], pairs[1], how.bootstrap, how.seed) if how.bootstrap else None,
        n_common=len(pairs[0]),
        differs=differs,
        conditional=True,
        note=CONDITIONAL,
        timings={"total_s": time.perf_counter() - started},
    )


def paired_scores(store: Store, a: ResultInputs, b: ResultInputs) -> tuple[np.ndarray, np.ndarray]:
    """Return ln q and ln p̂ of the common test samples, (n, 2) for each result. Raise InvalidInput for too few."""
    tests = _tested(store, a), _tested(store, b)
    at = _common(store, a, b, tests[0].positions, tests[1].positions)
    n = len(at[0])
    pairs = []
    for tested, common in zip(tests, at, strict=True):
        clusters = tested.clusters[common]
        if n < 2 or len(np.unique(clusters)) < 2:
            raise InvalidInput(f"the two share {n} test samples: too few to compare", hint="use the same --seed")
        pairs.append(np.stack([tested.log_q[common], plug_in(clusters)], axis=1))
    return pairs[0], pairs[1]


def _differs(a: ResultInputs, b: ResultInputs) -> tuple[str, ...]:
    one, two = a.result.artifact.spec, b.result.artifact.spec
    differences = []
    if one["dataset"] != two["dataset"]:
        differences.append(f"datasets {a.result.row['dataset']} and {b.result.row['dataset']}")
    if one["concepts"] != two["concepts"]:
        differences.append(f"concepts {one['concept_names']} and {two['concept_names']}, or their versions")
    options = [{k: v for k, v in spec["options"].items() if k not in _NO_TRAINING} for spec in (one, two)]
    # the grouping of the split belongs to the protocol; K-means' options are part of what is compared
    splits = [inputs.clustering.artifact.spec["options"].get("grouping") for inputs in (a, b)]
    keys = sorted(options[0].keys() | options[1].keys())
    # options added after a result was stored are absent from it
    first, second = ({k: option.get(k, False) for k in keys} for option in options)
    differences += [f"{k} {first[k]} and {second[k]}" for k in keys if first[k] != second[k]]
    if splits[0] != splits[1]:
        differences.append("how the split is grouped")
    return tuple(differences)


def _tested(store: Store, inputs: ResultInputs) -> _Tested:
    """Return ln q on the test part, from the stored weights, which must give the stored score."""
    from qrp_store.probing.metrics import log_likelihood

    row = inputs.result.row
    data = load(store, inputs.clustering, inputs.joined, inputs.request)
    x, clusters = data.part(TEST)
    weights = load_array(store.arrays, row["weights_path"], row["weights_checksum"])
    log_q = log_likelihood(weights, x, clusters)
    if row["nmi"] is None:
        raise InvalidInput(f"{inputs.result.artifact.id} has no score: all its test samples are in one cluster")
    score = nmi(log_q, plug_in(clusters))
    if abs(score - row["nmi"]) > TOLERANCE:
        raise Corrupt(
            f"{inputs.result.artifact.id}: its weights give NMI {score:.6f}, its row says {row['nmi']:.6f}",
            hint="qrp-store verify --deep, then qrp-store evaluate --force",
        )
    return _Tested(data.positions[data.parts == TEST], clusters, log_q)


def _common(
    store: Store, a: ResultInputs, b: ResultInputs, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the common test samples in each result: by position, or by key across datasets."""
    if a.result.artifact.spec["dataset"] != b.result.artifact.spec["dataset"]:
        names = []
        for inputs, positions in ((a, first), (b, second)):
            keys = datasets.keys(store.catalog, datasets.get_dataset(store.catalog, inputs.result.row["dataset"]))
            names.append(np.array([keys[i] for i in positions.tolist()], dtype=object))
        first, second = names
    _, at_first, at_second = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return at_first, at_second


def _side(inputs: ResultInputs, score: float) -> Side:
    row = inputs.result.row
    columns = {
        name: row[name] for name in ("dataset", "backbone", "concepts", "clusters", "seed", "protocol", "n_test")
    }
    return Side(id=inputs.result.artifact.id, nmi=score, nmi_common=score, nmi_stored=row["nmi"], **columns)
