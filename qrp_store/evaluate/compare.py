"""The story of compare: how sure is the difference of two results? Paired over the test samples that they share."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import datasets
from qrp_store.errors import Corrupt, InvalidInput
from qrp_store.evaluate.data import load
from qrp_store.evaluate.rerun import TOLERANCE, Asked, asked
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
    """One of the two: `nmi_common` on the common test samples, `nmi_stored` on all of its own.

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

    `differs` says in which of dataset, concepts and protocol the two differ. `conditional` is always True: the interval
    holds for these clusterings alone, as `note` says.
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
    """The difference of two results' NMI, with a paired bootstrap interval.

    Raises InvalidInput when dataset, concepts or protocol differ, unless `anyway`, or when too few samples are common;
    Corrupt when stored weights do not give the stored score.
    """
    started = time.perf_counter()
    how = PairOptions(anyway=anyway, bootstrap=bootstrap, seed=seed)
    a, b = (asked(store, reference, "cpu") for reference in (first, second))
    differs = _differs(a, b)
    if differs and not how.anyway:
        raise InvalidInput(
            f"{a.result.artifact.id} and {b.result.artifact.id} answer different questions: {'; '.join(differs)}",
            hint="--anyway compares them all the same",
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


def paired_scores(store: Store, a: Asked, b: Asked) -> tuple[np.ndarray, np.ndarray]:
    """ln q and ln p̂ of the test samples that both results share, (n, 2) each. Raises InvalidInput for too few."""
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


def _differs(a: Asked, b: Asked) -> tuple[str, ...]:
    one, two = a.result.artifact.spec, b.result.artifact.spec
    said = []
    if one["dataset"] != two["dataset"]:
        said.append(f"datasets {a.result.row['dataset']} and {b.result.row['dataset']}")
    if one["concepts"] != two["concepts"]:
        said.append(f"concepts {one['concept_names']} and {two['concept_names']}, or their versions")
    options = [{k: v for k, v in spec["options"].items() if k not in _NO_TRAINING} for spec in (one, two)]
    # how the split is grouped is a matter of protocol; what K-means did is what is compared
    splits = [asked.clustering.artifact.spec["options"].get("grouping") for asked in (a, b)]
    keys = sorted(options[0].keys() | options[1].keys())
    first, second = ({k: option.get(k, False) for k in keys} for option in options)  # younger ones stand there if asked
    said += [f"{k} {first[k]} and {second[k]}" for k in keys if first[k] != second[k]]
    if splits[0] != splits[1]:
        said.append("how the split is grouped")
    return tuple(said)


def _tested(store: Store, question: Asked) -> _Tested:
    """ln q on the test part, from the stored weights; they must give the stored score."""
    from qrp_store.probing.metrics import log_likelihood

    row = question.result.row
    data = load(store, question.clustering, question.joined, question.request)
    x, clusters = data.part(TEST)
    weights = load_array(store.arrays, row["weights_path"], row["weights_checksum"])
    log_q = log_likelihood(weights, x, clusters)
    if row["nmi"] is None:
        raise InvalidInput(f"{question.result.artifact.id} has no score: all its test samples are in one cluster")
    found = nmi(log_q, plug_in(clusters))
    if abs(found - row["nmi"]) > TOLERANCE:
        raise Corrupt(
            f"{question.result.artifact.id}: its weights give NMI {found:.6f}, its row says {row['nmi']:.6f}",
            hint="qrp-store verify --deep, then qrp-store evaluate --force",
        )
    return _Tested(data.positions[data.parts == TEST], clusters, log_q)


def _common(store: Store, a: Asked, b: Asked, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in each one's test samples those are that both have: by position, or by key across datasets."""
    if a.result.artifact.spec["dataset"] != b.result.artifact.spec["dataset"]:
        names = []
        for question, positions in ((a, first), (b, second)):
            keys = datasets.keys(store.catalog, datasets.get_dataset(store.catalog, question.result.row["dataset"]))
            names.append(np.array([keys[i] for i in positions.tolist()], dtype=object))
        first, second = names
    _, at_first, at_second = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return at_first, at_second


def _side(question: Asked, score: float) -> Side:
    row = question.result.row
    own = {name: row[name] for name in ("dataset", "backbone", "concepts", "clusters", "seed", "protocol", "n_test")}
    return Side(id=question.result.artifact.id, nmi=score, nmi_common=score, nmi_stored=row["nmi"], **own)
