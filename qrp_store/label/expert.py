"""The story of label --expert: images through a model to a versioned concept set.

gather: the dataset, the images that belong to its keys, the model. compute: scores, block by block, kept beside the
set; what is above the threshold. commit: rows, then `ready`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import InvalidInput
from qrp_store.execution import available_cores
from qrp_store.label import expert_scores, zero_shot
from qrp_store.label.numbering import ALL, Numbers, Unknown, check_exclusive, numbered
from qrp_store.label.piles import LABEL, LOOKED_AT, Piles
from qrp_store.label.story import LabelReport, label_report, write
from qrp_store.options import Activation, LabelExpertOptions, LabelOptions, Match, RunOptions, Several, taken, takes
from qrp_store.progress import Progress, silent
from qrp_store.readers.labels.class_names import read_names
from qrp_store.records import Artifact, Dataset, Spec, fingerprint
from qrp_store.store import Store, check_name

if TYPE_CHECKING:
    from qrp_store.models.experts import Expert

ALGORITHM = 1
_DEFAULT_THRESHOLD = {"classifier": 0.5, "detector": 0.5, "segmenter": 0.01}


@takes(LabelOptions, LabelExpertOptions, RunOptions)
def label_by_expert(
    store: Store,
    expert: str,
    *,
    images: str,
    dataset: str,
    concepts: str,
    threshold: float | None = None,
    group: str | None = None,
    exclusive: bool = False,
    ignore_unknown_keys: bool = False,
    names: str | None = None,
    match: Match = "key",
    activation: Activation | None = None,
    weights: str = "default",
    vocabulary: str | None = None,
    template: Several[str] = (),
    top_k: int | None = None,
    batch_size: int = 16,
    skip_bad: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> LabelReport:
    """Store a concept set of a dataset: the categories that a model sees in its images.

    A category counts if its probability, its surest box (by default above 0.5) or its share of the pixels (by default
    at least 1 %) does, or if it is among an image's `top_k`. The scores of all categories are stored, so that another
    threshold needs no new run. A vision-language model (`open_clip/…`, `hf/…`) takes its categories from `vocabulary`.
    Raise NotFound, InvalidInput and Unavailable.
    """
    given = locals()
    options, how = taken(LabelOptions, given), taken(LabelExpertOptions, given)
    return label_by_expert_with(store, options, how, taken(RunOptions, given), progress)


def label_by_expert_with(
    store: Store, options: LabelOptions, how: LabelExpertOptions, run: RunOptions, progress: Progress
) -> LabelReport:
    """Do what `label_by_expert` does, with its options in records."""
    started = time.perf_counter()
    check_name(options.concepts, "concept set")
    assert how.expert is not None
    assert how.images is not None
    if how.expert.partition("/")[0] in zero_shot.FAMILIES:
        return zero_shot.label_by_words_with(store, options, how, run, progress)
    if how.vocabulary is not None or how.template:
        raise InvalidInput(
            f"--vocabulary and --template are for vision-language models; {how.expert} has categories of its own",
            hint="--expert open_clip/NAME or hf/FOLDER",
        )
    owner = datasets.get_dataset(store.catalog, options.dataset)
    keys = datasets.keys(store.catalog, owner)
    folder = Path(how.images).expanduser()
    files = expert_scores.files_of(folder, keys, owner, options.match, options.ignore_unknown_keys, progress)
    model = _load(how.expert, how.weights, options.activation or "softmax", options.names, how.device, how.seed)
    threshold = options.threshold
    if threshold is None and how.top_k is None:
        threshold = _DEFAULT_THRESHOLD[model.kind]
    if threshold is not None and model.kind == "segmenter":
        threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))  # at least, not more than
    request = _Asked(options.concepts, options.group, threshold, how.top_k, options.exclusive)
    mark = fingerprint({"expert": model.spec, "dataset": owner.fingerprint, "images": expert_scores.digest(files)})
    spec = request.spec(owner, model, mark)
    with lease.find_or_hold(store.catalog, spec, force=run.force, wait=run.wait, progress=progress) as work:
        if isinstance(work, Artifact):
            return label_report(store, work, started, cached=True)
        threads = how.workers or max(1, available_cores() - 1)
        scoring = expert_scores.Scoring(
            store, model, files, owner.n, mark, how.batch_size, threads, how.skip_bad, progress
        )
        layout, blocks = scoring.run(work.claim, work.heartbeat, options.dataset)
        numbers = Numbers(how.expert, len(model.names))
        numbers.learn((name, options.group) for name in model.names)
        with Piles(owner.n, LABEL) as labels, Piles(owner.n, LOOKED_AT) as seen:
            for at, concept, scores, scored in expert_scores.above(store, layout, blocks, threshold, how.top_k):
                labels.add(at, concept, scores)
                seen.add(scored, np.full(len(scored), ALL, np.int32))
            table = numbered(numbers, labels, seen, keys, Unknown())
        if options.exclusive:
            check_exclusive(table, how.expert)
        provenance = {
            "source": str(Path(how.images).absolute()),
            "format": "expert",
            "device": model.device,
            "scores": expert_scores.document(layout, blocks, mark),
        }
        write(store, work.claim, owner, table, provenance, exclusive=options.exclusive)
    made = concept_sets.by_id(store.catalog, work.claim.id)
    return label_report(store, made.artifact, started, cached=False)


@dataclass(frozen=True)
class _Asked:
    """What becomes of the scores."""

    concepts: str
    group: str | None
    threshold: float | None
    top_k: int | None
    exclusive: bool

    def spec(self, owner: Dataset, model: Expert, mark: str) -> Spec:
        document = {
            "algorithm": ALGORITHM,
            "dataset": owner.fingerprint,
            "expert": dict(model.spec),
            "scores": mark,
            "group": self.group,
            "threshold": self.threshold,
            "top_k": self.top_k,
            "exclusive": self.exclusive,
        }
        return Spec("concepts", self.concepts, concept_sets.series(owner.name, self.concepts), document)


def _load(expert: str, weights: str, activation: Activation, names: str | None, device: str, seed: int) -> Expert:
    from qrp_store.models.experts import ExpertOptions, load_expert

    classes = None
    if names is not None:
        known = read_names(Path(names).expanduser())
        if set(known) != {str(i) for i in range(len(known))}:
            raise InvalidInput(
                f"{names}: the classes of an expert are numbered from 0", hint="one name a line, in order"
            )
        classes = tuple(known[str(i)][0] for i in range(len(known)))
    return load_expert(ExpertOptions(expert, weights, activation, classes, device, seed))
