"""The options of `evaluate`: what to score, how the probe is trained, and what is computed with the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qrp_store.errors import InvalidInput
from qrp_store.options.clustering import K_TEXT
from qrp_store.options.declaring import Options, option, plain_option, required
from qrp_store.options.running import RunOptions
from qrp_store.samples import Match

Protocol = Literal["laina2022", "tight"]
Solver = Literal["sgd", "lbfgs"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSelection(Options):
    """What to score: every backbone × concept set × K × seed, and clusterings that exist."""

    dataset: str = required("Name of the dataset.", metavar="D", completes="datasets")
    backbones: tuple[str, ...] = option(
        (),
        "Backbone; repeatable.",
        flags=("--backbone",),
        metavar="B",
        default_text="all of the dataset",
        completes="backbones",
    )
    concepts: tuple[str, ...] = option(
        (),
        "Concept set; repeatable. C1+C2 joins sets.",
        metavar="C",
        default_text="each of the dataset",
        completes="concepts",
    )
    imported: tuple[str, ...] = option(
        (), "Existing clustering, by imported NAME or by ID; repeatable.", flags=("--clustering",), metavar="N"
    )
    k: tuple[int | Literal["auto"], ...] = option(
        ("auto",), "Number of clusters; repeatable.", flags=("-k", "--clusters"), metavar="auto|K", default_text=K_TEXT
    )
    seeds: tuple[int, ...] = option(
        (),
        "Random seed of K-means, split and shuffles; repeatable.",
        flags=("--seed",),
        metavar="SEED",
        default_text="0",
    )
    group_by: str | None = option(
        None, "Table of key,group rows: the split keeps each group in one part.", metavar="FILE"
    )
    match: Match = plain_option("key", "Part of a key of --group-by that must agree with the dataset's.")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(Options):
    """How a probe is trained, after Laina et al. 2022. `solver` None becomes the protocol's.

    The learning rate is divided by 10 at 60 % and at 80 % of the epochs. `epochs`, `batch_size`, `lr` and `momentum`
    matter to sgd alone; `weight_decay` (λ) to all but tight, which chooses its own.
    """

    protocol: Protocol = option("laina2022", "Training protocol; see docs/method.md.")
    solver: Solver | None = option(None, "Optimiser.", default_text="sgd for laina2022, lbfgs for tight")
    epochs: int = option(100, "Maximum number of SGD epochs.", metavar="N", minimum=0)
    batch_size: int = option(512, "Samples per SGD step.", metavar="N", minimum=1)
    lr: float = option(3.5, "Learning rate; divided by 10 at 60 % and 80 % of the epochs.", metavar="LR", above=0)
    momentum: float = option(0.9, "Momentum of SGD.", metavar="M", minimum=0, below=1)
    weight_decay: float = option(3e-6, "λ of the penalty λ/2 (‖W‖² + ‖b‖²).", metavar="λ", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver is None:
            object.__setattr__(self, "solver", "lbfgs" if self.protocol == "tight" else "sgd")
        if self.protocol == "tight" and self.solver != "lbfgs":
            raise InvalidInput("--protocol tight trains to the optimum: its solver is lbfgs", hint="leave --solver out")
        if self.protocol == "laina2022" and self.solver == "lbfgs" and self.weight_decay == 0:
            raise InvalidInput("--solver lbfgs needs --weight-decay above 0: without it there may be no optimum")

    @property
    def algorithm(self) -> int:
        """Version of what these options compute: results of two versions have different numbers.

        sgd     2: the gradient of a short last batch is divided by `batch_size` (1: by the batch's own size).
        tight   2: the bias decays toward the log frequencies, the path starts at λ = 1 (1: toward 0, from 0.01).
        """
        return 2 if self.solver == "sgd" or self.protocol == "tight" else 1

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1. Milestones round down; epoch 1 has the full rate."""
        milestones = (max(1, self.epochs * 3 // 5), max(1, self.epochs * 4 // 5))
        return float(self.lr * 0.1 ** sum(epoch > milestone for milestone in milestones))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Which samples and concepts take part, and what is computed with the score. Part of a result's identity."""

    bootstrap: int = option(1000, "Bootstrap replicates of the confidence interval.", metavar="N", minimum=0)
    permute: bool = option(False, "Run the permuted control instead: concepts shuffled within each part.")
    permutations: int = option(
        0,
        "Also run N permuted controls; report a p-value and the chance-adjusted NMI.",
        metavar="N",
        minimum=0,
    )
    ablate: bool = option(False, "Also score each concept group alone and left out; see view group_scores.")
    labelled_only: bool = option(False, "Leave out samples without any concept.")
    only_verified: bool = option(
        False, "Keep only samples and concepts for which every pair was checked.", younger=True
    )
    min_count: int = option(0, "Leave out concepts that hold for fewer samples.", metavar="N", minimum=0)
    soft: bool = option(False, "Weight each label by its score instead of 1.", younger=True)
    sample_eval: int | None = option(
        None,
        "Train and score on N of the samples, drawn by cluster and part.",
        metavar="N",
        minimum=1,
        default_text="all",
        younger=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.permute and self.permutations:
            raise InvalidInput("--permute is a control already: it takes no --permutations")


@dataclass(frozen=True, kw_only=True)
class ExtraOptions(Options):
    """What is scored in addition to each result. Not part of a result's identity: it can be added later."""

    forward: bool = option(
        False, "Also run the usual linear and kNN probes, embedding to concepts; see forward_scores.", identity=False
    )
    knn_queries: int = option(
        20_000, "Test samples that --forward's kNN queries; 0 means all.", metavar="N", minimum=0, identity=False
    )
    curve: bool = option(
        False, "Also score with less training data and with random parts of the vocabulary.", identity=False
    )
    thresholds: tuple[float, ...] = option(
        (),
        "Also score with only the labels whose score is above each threshold.",
        metavar="T,T…",
        minimum=0,
        below=1,
        separator=",",
        identity=False,
    )
    upper: bool = option(
        False,
        "Also train probes that are not linear, as an upper reference for the bound (nmi_upper).",
        identity=False,
    )
    mdl: bool = option(
        False,
        "Also compute the prequential code length, which cannot overfit (code_length_nats).",
        identity=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thresholds", tuple(sorted(set(self.thresholds))))

    @property
    def named(self) -> tuple[str, ...]:
        """Return which of forward, curve, thresholds, upper and mdl are requested."""
        return tuple(name for name in ("forward", "curve", "thresholds", "upper", "mdl") if getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class EvaluateRun(RunOptions):
    """How evaluate treats what exists. `force` makes new versions of results, not of clusterings."""

    dry_run: bool = option(False, "Print the plan and its cost; compute nothing.", identity=False)
