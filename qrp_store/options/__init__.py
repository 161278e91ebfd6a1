"""Every option that a user can give, once: type, default, bounds, help text, and whether a fingerprint contains it.

The command line, the checks of the Python functions, the fingerprints and docs/options.md come from these records.
"""

from qrp_store.options.clustering import (
    ClusterOptions,
    ClusterSource,
    Engine,
    Init,
    KMeansTraining,
    PlaceOptions,
    automatic_k,
    parse_memory,
    suggested_k,
)
from qrp_store.options.declaring import Described, Options, Several, described, taken, takes
from qrp_store.options.evaluating import (
    EvaluateRun,
    EvaluateSelection,
    ExtraOptions,
    ProbeOptions,
    Protocol,
    ScoreOptions,
    Solver,
)
from qrp_store.options.ingesting import Dtype, IngestOptions, ModelOptions, Precision, SourceOptions
from qrp_store.options.labelling import (
    Activation,
    LabelExpertOptions,
    LabelFileOptions,
    LabelFormat,
    LabelOptions,
    Match,
)
from qrp_store.options.reporting import ExportOptions, ReportOptions
from qrp_store.options.running import DeviceOptions, RunOptions, SchedulerOptions, WorkerOptions

__all__ = [
    "Activation",
    "ClusterOptions",
    "ClusterSource",
    "Described",
    "DeviceOptions",
    "Dtype",
    "Engine",
    "EvaluateRun",
    "EvaluateSelection",
    "ExportOptions",
    "ExtraOptions",
    "IngestOptions",
    "Init",
    "KMeansTraining",
    "LabelExpertOptions",
    "LabelFileOptions",
    "LabelFormat",
    "LabelOptions",
    "Match",
    "ModelOptions",
    "Options",
    "PlaceOptions",
    "Precision",
    "ProbeOptions",
    "Protocol",
    "ReportOptions",
    "RunOptions",
    "SchedulerOptions",
    "ScoreOptions",
    "Several",
    "Solver",
    "SourceOptions",
    "WorkerOptions",
    "automatic_k",
    "described",
    "parse_memory",
    "suggested_k",
    "taken",
    "takes",
]
