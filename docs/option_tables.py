"""The tables of options, made from the records that declare them: `make options` writes docs/options.md."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from qrp_store.options import (
    AgreementOptions,
    BrowserOptions,
    ClusterOptions,
    ClusterSource,
    ColumnOptions,
    CompareOptions,
    CopyOptions,
    Described,
    EvaluateRun,
    EvaluateSelection,
    ExportOptions,
    ExtraOptions,
    FormatOptions,
    GcOptions,
    IngestOptions,
    InitOptions,
    KMeansTraining,
    LabelExpertOptions,
    LabelFileOptions,
    LabelOptions,
    LeaderboardOptions,
    MigrateOptions,
    Options,
    PairOptions,
    ProbeOptions,
    RepairOptions,
    ReportOptions,
    RerunCheckOptions,
    RerunOptions,
    RetireOptions,
    RunOptions,
    ScoreOptions,
    SelfcheckOptions,
    ServeOptions,
    SharedOptions,
    SqlOptions,
    VerifyOptions,
    WaitOptions,
    described,
)

PAGE = Path(__file__).with_name("options.md")
TABLES: dict[str, list[tuple[str, type[Options]]]] = {
    "ingest": [("", IngestOptions)],
    "label": [
        ("The concept set", LabelOptions),
        ("Label files", LabelFileOptions),
        ("Labels by a model", LabelExpertOptions),
        ("What exists", RunOptions),
    ],
    "cluster": [("The source", ClusterSource), ("K-means", ClusterOptions), ("What exists", RunOptions)],
    "evaluate": [
        ("What to score", EvaluateSelection),
        ("Training the probe", ProbeOptions),
        ("Scoring", ScoreOptions),
        ("Extra scores", ExtraOptions),
        ("K-means", KMeansTraining),
        ("What exists", EvaluateRun),
    ],
    "report": [("", ReportOptions)],
    "export": [("", ExportOptions)],
    "compare": [("Over seeds", CompareOptions), ("Two results", PairOptions), ("Output", FormatOptions)],
    "compare-concepts": [("Selection", AgreementOptions), ("Output", FormatOptions)],
    "leaderboard": [("Selection", LeaderboardOptions), ("Columns", ColumnOptions), ("Output", FormatOptions)],
    "rerun": [("Computing", RerunOptions), ("Exit code", RerunCheckOptions)],
    "selfcheck": [("", SelfcheckOptions)],
    "ls": [("", FormatOptions)],
    "show": [("", FormatOptions)],
    "sql": [("The query", SqlOptions), ("Output", FormatOptions)],
    "serve": [("Address", ServeOptions), ("Browser", BrowserOptions)],
    "init": [("", InitOptions)],
    "migrate": [("", MigrateOptions)],
    "verify": [("", VerifyOptions)],
    "repair": [("", RepairOptions)],
    "copy": [("Where to", CopyOptions), ("What exists", WaitOptions)],
    "rm": [("", RetireOptions)],
    "gc": [("", GcOptions)],
    "doctor": [("", FormatOptions)],
}
INTRODUCTION = """\
# Options
This page is written by `make options` from the records in `qrp_store/options/`, which also make the command line, the
checks of the Python functions and the fingerprints. The Python functions (`ingest`, `label`, `label_by_expert`,
`cluster`, `cluster_by`, `import_clustering`, `evaluate`, `report`, `export`, `compare` …) take the same options
as keyword arguments, by the name in the second column; options without one exist on the command line alone. An option
that takes several values also accepts one. An unknown argument is refused, and the error names the nearest one.

*Identity*: the fingerprint of an artifact contains the option, so another value makes another artifact. The other
options are recorded as provenance, or change no number.
"""
COMMAND_LINE_ONLY = {
    BrowserOptions,
    ColumnOptions,
    CopyOptions,
    FormatOptions,
    RerunCheckOptions,
    SharedOptions,
    SqlOptions,
}
_NAMES = {int: "whole number", float: "number", str: "text", bool: "switch"}


def page() -> str:
    """Return the text of docs/options.md."""
    parts = [INTRODUCTION, "## Every command\n", _table(SharedOptions)]
    for command, tables in TABLES.items():
        parts.append(f"## {command}\n")
        for title, record in tables:
            parts += [f"### {command}: {title.lower()}\n"] if title else []
            parts.append(_table(record))
    return "\n".join(parts)


def _table(record: type[Options]) -> str:
    rows = ["| option | Python | value | default | identity | meaning |", "|---|---|---|---|---|---|"]
    required_first = sorted(described(record), key=lambda each: not each.required)
    in_python = record not in COMMAND_LINE_ONLY
    rows += ["| " + " | ".join(_cells(each, in_python)) + " |" for each in required_first]
    return "\n".join(rows) + "\n"


def _cells(each: Described, in_python: bool) -> list[str]:
    flags = ", ".join(f"`{flag}`" for flag in each.flags)
    python = (f"`{each.name}=False`" if each.negated else f"`{each.name}`") if in_python else ""
    default = "required" if each.required else each.default_text or ""
    bounds = each.declaration.bounds()
    words = f"`{each.declaration.metavar}`" if each.declaration.choice else _value(each.element)
    value = words + (f", {bounds}" if bounds else "") + ("; several" if each.is_list else "")
    identity = "yes" if each.declaration.identity else ""
    return [text.replace("|", r"\|") for text in (flags, python, value, default, identity, each.declaration.help)]


def _value(kind: Any) -> str:
    """The values that a type allows, in words."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind in _NAMES:
        return _NAMES[kind]
    return " or ".join(_value(one) for one in get_args(kind) if one is not NoneType)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
