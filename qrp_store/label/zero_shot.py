"""The story of label --expert with a vision-language model: images and a vocabulary to a versioned concept set.

gather: the dataset, its images, the vocabulary, the model. compute: the images' vectors block by block, the texts'
vectors, their product block by block; of it only what counts. commit: rows, then `ready`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import InvalidInput, QrpStoreError
from qrp_store.execution import available_cores
from qrp_store.label import expert_scores
from qrp_store.label.numbering import ALL, LabelTable, Numbers, Unknown, check_exclusive, numbered
from qrp_store.label.piles import LABEL, LOOKED_AT, Piles
from qrp_store.label.story import LabelReport, label_report, write
from qrp_store.options import LabelExpertOptions, LabelOptions, RunOptions
from qrp_store.progress import Progress
from qrp_store.readers.labels.rows import Term
from qrp_store.readers.vocabularies import read_vocabulary
from qrp_store.records import ArraySpec, Artifact, Block, Dataset, Spec, fingerprint
from qrp_store.store import Store

if TYPE_CHECKING:
    from qrp_store.models.two_towers import TwoTowers
    from qrp_store.models.zero_shot import ZeroShot

ALGORITHM = 1
FAMILIES = ("open_clip", "hf")
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of {}.",
    "{}",
)
NEUTRAL = "thing"
"""The word that makes the neutral text of each template."""
_THRESHOLD = 0.5
_WORDS = 256  # words in a block of text vectors


@dataclass(frozen=True)
class _Request:
    """The options of a zero-shot run, checked, with the vocabulary."""

    terms: tuple[Term, ...]
    templates: tuple[str, ...]
    threshold: float | None
    top_k: int | None
    exclusive: bool
    concepts: str

    def spec(self, owner: Dataset, towers: TwoTowers, activation: str, mark: str) -> Spec:
        expert = {
            "arch": towers.image_spec["arch"],
            "kind": "zero-shot",
            "weights": towers.image_spec["weights"],
            "preprocessing": towers.image_spec["preprocessing"],
            "tokenizer": towers.text_spec["tokenizer"],
            "activation": activation,
            "templates": list(self.templates),
            "neutral": NEUTRAL if activation == "softmax" else None,
            "names": [list(term) for term in self.terms],
        }
        document = {
            "algorithm": ALGORITHM,
            "dataset": owner.fingerprint,
            "expert": expert,
            "scores": mark,
            "threshold": self.threshold,
            "top_k": self.top_k,
            "exclusive": self.exclusive,
        }
        return Spec("concepts", self.concepts, concept_sets.series(owner.name, self.concepts), document)


def label_by_words_with(
    store: Store, options: LabelOptions, how: LabelExpertOptions, run: RunOptions, progress: Progress
) -> LabelReport:
    """Store a concept set of a dataset: which words of a vocabulary a vision-language model sees in its images.

    Images are embedded once for every vocabulary, and words once for every threshold. Raise NotFound, InvalidInput and
    Unavailable.
    """
    started = time.perf_counter()
    request = _request(options, how)
    owner = datasets.get_dataset(store.catalog, options.dataset)
    keys = datasets.keys(store.catalog, owner)
    folder = Path(str(how.images)).expanduser()
    files = expert_scores.files_of(folder, keys, owner, options.match, options.ignore_unknown_keys, progress)
    towers = _load(how)
    activation = options.activation or towers.activation
    if activation == "sigmoid" and towers.activation == "softmax":
        raise InvalidInput(
            f"{how.expert}: its logits are not trained for --activation sigmoid", hint="leave --activation out"
        )
    images = {"tower": towers.image_spec, "dataset": owner.fingerprint, "images": expert_scores.digest(files)}
    mark = fingerprint(images)
    spec = request.spec(owner, towers, activation, mark)
    with lease.find_or_hold(store.catalog, spec, force=run.force, wait=run.wait, progress=progress) as work:
        if isinstance(work, Artifact):
            return label_report(store, work, started, cached=True)
        threads = how.workers or max(1, available_cores() - 1)
        scoring = expert_scores.Scoring(
            store, towers, files, owner.n, mark, how.batch_size, threads, how.skip_bad, progress
        )
        layout, blocks = scoring.run(work.claim, work.heartbeat, options.dataset)
        texts = _Texts(store, towers, request, work.claim, work.heartbeat, progress)
        rule, words = texts.rule(activation)
        table = _table(store, layout, blocks, rule, request, keys, work.heartbeat, progress)
        if options.exclusive:
            check_exclusive(table, str(how.expert))
        provenance = {
            "source": str(folder.absolute()),
            "format": "expert",
            "device": towers.device,
            "vocabulary": how.vocabulary,
            "scores": expert_scores.document(layout, blocks, mark),
            "texts": words,
        }
        write(store, work.claim, owner, table, provenance, exclusive=options.exclusive)
    if not len(table.positions):
        progress.warn(
            f"{how.expert}: no score is greater than {request.threshold}: try another --threshold, or --top-k"
        )
    made = concept_sets.by_id(store.catalog, work.claim.id)
    return label_report(store, made.artifact, started, cached=False)


def _request(options: LabelOptions, how: LabelExpertOptions) -> _Request:
    if how.vocabulary is None:
        raise InvalidInput(
            f"--expert {how.expert} needs a vocabulary",
            hint="--vocabulary FILE with concept[,group] a line, or a name of qrp-store ls vocabularies",
        )
    if options.names is not None:
        raise InvalidInput(f"--names: the concepts of {how.expert} are those of --vocabulary", hint="leave --names out")
    templates = how.template or TEMPLATES
    for template in templates:
        if template.count("{}") != 1 or any(brace in template.replace("{}", "") for brace in "{}"):
            raise InvalidInput(f"--template {template!r}: expected one {{}} for the concept", hint="'a photo of a {}.'")
    terms = tuple((name, group or options.group) for name, group in read_vocabulary(how.vocabulary))
    threshold = options.threshold
    if threshold is None and how.top_k is None:
        threshold = _THRESHOLD
    return _Request(terms, templates, threshold, how.top_k, options.exclusive, options.concepts)


def _load(how: LabelExpertOptions) -> TwoTowers:
    from qrp_store.models.two_towers import load_two_towers

    return load_two_towers(str(how.expert), how.weights, device=how.device, seed=how.seed)


def _table(
    store: Store,
    layout: ArraySpec,
    blocks: Sequence[Block],
    rule: ZeroShot,
    request: _Request,
    keys: list[str],
    heartbeat: lease.Heartbeat,
    progress: Progress,
) -> LabelTable:
    """Multiply images and texts block by block and keep what counts."""
    numbers = Numbers(request.concepts, len(request.terms))
    numbers.learn(request.terms)
    with (
        Piles(layout.n, LABEL) as labels,
        Piles(layout.n, LOOKED_AT) as looked_at,
        progress.task("compare images and words", layout.n, "images") as task,
    ):
        for block in blocks:
            heartbeat.check()
            vectors = arrays.read_block(store.arrays, layout, block)
            (at,) = np.nonzero(~np.isnan(vectors[:, 0]))
            looked_at.add(block.start + at, np.full(len(at), ALL, np.int32))
            for row, concept, score in rule.above(vectors[at], request.threshold, request.top_k):
                labels.add(block.start + at[row], concept.astype(np.int32), score.astype(np.float64))
            task.advance(block.rows)
        return numbered(numbers, labels, looked_at, keys, Unknown())


@dataclass
class _Texts:
    """The vectors of a vocabulary's words: taken from ready sets of the same text tower and templates, or computed."""

    store: Store
    towers: TwoTowers
    request: _Request
    claim: lease.Claim
    heartbeat: lease.Heartbeat
    progress: Progress

    def rule(self, activation: str) -> tuple[ZeroShot, dict[str, Any]]:
        """Return how vectors become scores, and what the catalog records of the texts."""
        from qrp_store.models.zero_shot import ZeroShot

        words = list(dict.fromkeys([NEUTRAL, *(name for name, _ in self.request.terms)]))
        mark = fingerprint({"tower": self.towers.text_spec, "templates": list(self.request.templates)})
        vectors = self._vectors(words, mark)
        path = f"{self.claim.path}/texts"
        ids = np.array([_digest(word) for word in words], np.int64)
        kept = {
            "mark": mark,
            "words": {"path": f"{path}/words", "checksum": self._save(f"{path}/words", ids)},
            "vectors": {"path": f"{path}/vectors", "checksum": self._save(f"{path}/vectors", vectors)},
        }
        place = {word: i for i, word in enumerate(words)}
        of_terms = vectors[[place[name] for name, _ in self.request.terms]]
        groups = [group for _, group in self.request.terms]
        towers = self.towers
        made = ZeroShot(
            of_terms,
            groups,
            vectors[0],
            "sigmoid" if activation == "sigmoid" else "softmax",
            towers.scale,
            towers.bias,
            towers.device,
        )
        return made, kept

    def _save(self, path: str, array: np.ndarray) -> str:
        return arrays.save_array(self.store.arrays, path, array, replace=True)

    def _vectors(self, words: Sequence[str], mark: str) -> np.ndarray:
        known = self._known(mark, words)
        missing = [word for word in words if word not in known]
        with self.progress.task("embed words", len(missing), "words") as task:
            for number, start in enumerate(range(0, len(missing), _WORDS)):
                part = missing[start : start + _WORDS]
                known |= dict(zip(part, self._block(number, part), strict=True))
                task.advance(len(part))
        return np.stack([known[word] for word in words]).astype(np.float32, copy=False)

    def _known(self, mark: str, words: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the vectors of words that a ready set has, of any dataset."""
        word_of = {_digest(word): word for word in words}
        known: dict[str, np.ndarray] = {}
        for kept in concept_sets.kept(self.store.catalog, "texts", mark):
            if len(known) == len(word_of):
                break
            try:
                ids, vectors = (
                    arrays.load_array(self.store.arrays, kept[name]["path"], kept[name]["checksum"])
                    for name in ("words", "vectors")
                )
            except QrpStoreError:
                continue  # missing or damaged: they are computed again
            known |= {word_of[i]: vectors[at] for at, i in enumerate(ids.tolist()) if i in word_of}
        return known

    def _block(self, number: int, words: Sequence[str]) -> np.ndarray:
        """Return the vectors of some words: the mean over the templates, of length 1; a stopped run's are reused."""
        self.heartbeat.check()
        mark = fingerprint([self.towers.text_spec, list(self.request.templates), list(words)])[:16]
        for base in filter(None, (self.claim.path, self.claim.previous_path)):
            stored = self._stored(f"{base}/texts/{number}-{mark}", len(words))
            if stored is not None:
                return stored
        each = [self.towers.texts([template.format(word) for word in words]) for template in self.request.templates]
        mean = np.mean(each, axis=0)
        vectors: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        layout = self._layout(f"{self.claim.path}/texts/{number}-{mark}", len(words))
        arrays.create(self.store.arrays, layout, ("word", "feature"))
        arrays.write_block(self.store.arrays, layout, 0, vectors, replace=True, durable=False)
        return vectors

    def _layout(self, path: str, n: int) -> ArraySpec:
        return ArraySpec(path, n, self.towers.dim, "float32", n)

    def _stored(self, path: str, n: int) -> np.ndarray | None:
        layout = self._layout(path, n)
        block = arrays.whole_block(self.store.arrays, layout, 0)
        return None if block is None else arrays.read_block(self.store.arrays, layout, block)


def _digest(word: str) -> int:
    """Return 64 bits of a word, by which a stored vector is found again."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)
