"""Options exist once: the command line and the Python functions show what the records declare."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import option_tables
import pytest
from typer.main import get_command

from qrp_store.cli.main import build, call
from qrp_store.cluster.centroids import cluster_by
from qrp_store.cluster.imported import import_clustering
from qrp_store.cluster.story import cluster
from qrp_store.errors import InvalidInput
from qrp_store.evaluate.compare import compare
from qrp_store.evaluate.compare_backbones import compare_backbones
from qrp_store.evaluate.rerun import rerun
from qrp_store.evaluate.selfcheck import selfcheck
from qrp_store.evaluate.story import evaluate
from qrp_store.export.story import export
from qrp_store.ingest.story import ingest
from qrp_store.kmeans.engines import ENGINES
from qrp_store.label.agreement import compare_concepts
from qrp_store.label.expert import label_by_expert
from qrp_store.label.story import label
from qrp_store.look import leaderboard
from qrp_store.maintenance.copy import copy
from qrp_store.maintenance.gc import gc
from qrp_store.maintenance.removal import migrate, retire, verify
from qrp_store.maintenance.repair import repair
from qrp_store.options import (
    AgreementOptions,
    BrowserOptions,
    ClusterOptions,
    ClusterSource,
    ColumnOptions,
    CompareOptions,
    CopyOptions,
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
    PlaceOptions,
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
    Several,
    SharedOptions,
    SqlOptions,
    VerifyOptions,
    WaitOptions,
    described,
)
from qrp_store.report.story import report
from qrp_store.serve.app import serve
from qrp_store.store import create_store

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT: Any = get_command(build())
COMMANDS: dict[str, tuple[type[Options], ...]] = {
    "ingest": (IngestOptions,),
    "label": (LabelOptions, LabelFileOptions, LabelExpertOptions, RunOptions),
    "cluster": (ClusterSource, ClusterOptions, RunOptions),
    "report": (ReportOptions,),
    "export": (ExportOptions,),
    "compare": (CompareOptions, PairOptions, FormatOptions),
    "compare-concepts": (AgreementOptions, FormatOptions),
    "leaderboard": (LeaderboardOptions, ColumnOptions, FormatOptions),
    "rerun": (RerunOptions, RerunCheckOptions),
    "selfcheck": (SelfcheckOptions,),
    "ls": (FormatOptions,),
    "show": (FormatOptions,),
    "sql": (SqlOptions, FormatOptions),
    "serve": (ServeOptions, BrowserOptions),
    "init": (InitOptions,),
    "migrate": (MigrateOptions,),
    "verify": (VerifyOptions,),
    "repair": (RepairOptions,),
    "copy": (CopyOptions, WaitOptions),
    "rm": (RetireOptions,),
    "gc": (GcOptions,),
    "doctor": (FormatOptions,),
    "demo": (),
    "evaluate": (EvaluateSelection, ProbeOptions, ScoreOptions, ExtraOptions, KMeansTraining, EvaluateRun),
}
# a function, and options of its records that are another function's, are its positional argument, or are required
FUNCTIONS: list[tuple[Callable[..., Any], set[str], set[str]]] = [
    (ingest, set(), {"dataset", "backbone"}),
    (label, set(), {"dataset", "concepts"}),
    (label_by_expert, {"expert"}, {"images", "dataset", "concepts"}),
    (evaluate, set(), {"dataset"}),
    (cluster, {"source", "name", "match", "centroids_of"}, {"dataset", "backbone"}),
    (cluster_by, {"source", "name", "match", "centroids_of"}, {"dataset"}),
    (import_clustering, {"source", "backbone", "centroids_of"}, {"dataset", "name"}),
    (report, set(), {"dataset", "output"}),
    (export, set(), {"output"}),
    (compare, set(), set()),
    (compare_backbones, set(), {"dataset"}),
    (compare_concepts, set(), set()),
    (rerun, set(), set()),
    (selfcheck, set(), set()),
    (leaderboard, {"dataset"}, set()),
    (serve, set(), set()),
    (create_store, set(), set()),
    (migrate, set(), set()),
    (verify, set(), set()),
    (repair, set(), set()),
    (copy, set(), set()),
    (retire, set(), set()),
    (gc, set(), set()),
]
RECORDS = sorted({SharedOptions, *(r for records in COMMANDS.values() for r in records)}, key=lambda r: r.__name__)


@pytest.mark.parametrize(("function", "elsewhere", "needed"), FUNCTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_function_takes_the_options_of_its_records(
    function: Callable[..., Any], elsewhere: set[str], needed: set[str]
) -> None:
    parameters = inspect.signature(function).parameters
    types = get_type_hints(function)
    fields = {each.name: each for record in function.records for each in described(record)}  # type: ignore[attr-defined]
    keywords = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY} - {"progress", "reference", "started"}
    shared = {"k", "seed"} & keywords - set(fields)  # of cluster_by and import_clustering
    fields |= {each.name: each for each in described(ClusterOptions) if each.name in shared}
    assert keywords == set(fields) - elsewhere
    for name in keywords:
        each, default = fields[name], parameters[name].default
        if name in needed:
            assert default is inspect.Parameter.empty
            assert types[name] is str
        else:
            assert default == each.default
            assert type(default) is type(each.default)
            expected = Several[each.element] if each.is_list else each.type  # type: ignore[misc]
            assert types[name] == expected, name


def test_no_function_takes_options_that_it_does_not_name() -> None:
    for function, _, _ in FUNCTIONS:
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_every_command_takes_its_options_from_records() -> None:
    assert set(ROOT.commands) == set(COMMANDS)
    shared = {each.name for each in described(SharedOptions)}
    for command in (ROOT, *ROOT.commands.values()):
        assert {p.name for p in command.params} >= shared


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_records(name: str) -> None:
    parameters = {p.name: p for p in ROOT.commands[name].params}
    declared = [each for record in COMMANDS[name] for each in described(record)]
    shared = {each.name for each in described(SharedOptions)}
    assert {n for n, p in parameters.items() if p.param_type_name == "option"} - shared == {d.name for d in declared}
    for each in declared:
        option = parameters[each.name]
        assert set(option.opts) | set(option.secondary_opts) == {f for flag in each.flags for f in flag.split("/")}
        assert option.help.startswith(each.declaration.help)
        assert option.required == each.required


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_choice_and_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for each in (each for record in COMMANDS[name] for each in described(record)):
        for words in (each.flag, each.declaration.help, each.default_text or ""):
            assert words in shown
        if get_origin(each.type) is Literal:
            assert f"{each.flag} <{'|'.join(get_args(each.type))}>" in shown


def test_the_choices_are_those_that_exist() -> None:
    from qrp_store.options import Engine

    assert get_args(Engine) == ENGINES


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_help_is_a_sentence_and_names_no_default(record: type[Options]) -> None:
    for each in described(record):
        text = each.declaration.help
        assert text[0].isupper() or text[0] == "λ", text
        assert text.endswith((".", "…")), text
        assert "default:" not in text, text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seed": 1}, "evaluate has no option 'seed': did you mean 'seeds'?"),
        ({"backbone": "r50"}, "evaluate has no option 'backbone': did you mean 'backbones'?"),
        ({"clustering": "x"}, "evaluate has no option 'clustering': did you mean 'imported'?"),
        ({"no_wait": True}, "evaluate has no option 'no_wait': did you mean 'wait'?"),
        ({"epoch": 3}, "evaluate has no option 'epoch': did you mean 'epochs'?"),
        ({"zzz": 3}, "evaluate has no option 'zzz'"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(call: dict[str, Any], message: str) -> None:
    for kind in (TypeError, InvalidInput, ValueError):
        with pytest.raises(kind) as caught:
            evaluate(None, dataset="d", **call)  # type: ignore[arg-type]
        assert str(caught.value) == message


@pytest.mark.parametrize("name", ["niter", "spherical", "init", "sample", "nredo", "normalize"])
def test_an_option_that_would_mean_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"cluster_by has no option '{name}'"):
        cluster_by(None, "clu-0", dataset="d", **{name: 50})  # type: ignore[arg-type]


def test_a_missing_argument_is_invalid_input_too() -> None:
    with pytest.raises(InvalidInput, match="'dataset'"):
        evaluate(None)  # type: ignore[call-arg, arg-type]


def test_one_value_may_stand_for_a_list() -> None:
    one = EvaluateSelection(dataset="d", backbones="r50", concepts="c", imported="i", k=6, seeds=1)  # type: ignore[arg-type]
    assert (one.backbones, one.concepts, one.imported, one.k, one.seeds) == (("r50",), ("c",), ("i",), (6,), (1,))
    assert ExtraOptions(thresholds=0.5).thresholds == (0.5,)  # type: ignore[arg-type]
    several = EvaluateSelection(dataset="d", k=[np.int64(3), "auto"], seeds=range(2))  # type: ignore[arg-type]
    assert (several.k, several.seeds) == ((3, "auto"), (0, 1))
    assert all(type(seed) is int for seed in several.seeds)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_every_device_is_accepted(device: str) -> None:
    assert PlaceOptions(device=device).device == device
    for name in ("cluster", "evaluate", "ingest", "label", "rerun", "selfcheck"):
        needed = {"ingest": ["x", "--backbone", "b"], "label": ["x", "--concepts", "c"], "rerun": ["res-1"]}
        words = needed.get(name, [])
        words = words if name in ("rerun", "selfcheck") else [*words, "--dataset", "d"]
        with ROOT.commands[name].make_context(name, [*words, "--device", device]) as context:
            assert context.params["device"] == device


@pytest.mark.parametrize(
    ("record", "values", "message"),
    [
        (PlaceOptions, {"device": "tpu"}, "--device 'tpu': known are auto, cpu, cuda, cuda:N"),
        (PlaceOptions, {"device": "cuda:-1"}, "--device 'cuda:-1': known are"),
        (PlaceOptions, {"device": "cuda:"}, "--device 'cuda:': known are"),
        (PlaceOptions, {"device": 0}, "--device 0: expected text"),
        (PlaceOptions, {"engine": "fais"}, "--engine 'fais': known are auto, faiss, torch"),
        (PlaceOptions, {"memory": "much"}, "--memory 'much': expected something like 2GB"),
        (PlaceOptions, {"workers": 0}, "--workers 0: at least 1"),
        (ClusterOptions, {"niter": 0}, "--niter 0: at least 1, at most 1,000,000"),
        (ClusterOptions, {"k": "many"}, "-k 'many': expected a whole number or auto"),
        (ClusterOptions, {"k": 2.5}, "-k 2.5: expected a whole number or auto"),
        (ClusterOptions, {"k": True}, "-k True: expected a whole number or auto"),
        (ClusterOptions, {"normalize": 1}, "--normalize 1: expected True or False"),
        (ProbeOptions, {"lr": 0}, "--lr 0: above 0"),
        (ProbeOptions, {"lr": float("inf")}, "--lr inf: above 0"),
        (ProbeOptions, {"momentum": 1}, "--momentum 1: at least 0, below 1"),
        (ProbeOptions, {"protocol": "laina"}, "--protocol 'laina': known are laina2022, tight"),
        (ScoreOptions, {"min_count": -1}, "--min-count -1: at least 0"),
        (ExtraOptions, {"thresholds": (0.5, 1.5)}, "--thresholds 1.5: at least 0, below 1"),
        (CompareOptions, {"width": 0}, "--width 0: above 0"),
        (PairOptions, {"bootstrap": -1}, "--bootstrap -1: at least 0"),
        (RerunOptions, {"device": "gpu"}, "--device 'gpu': known are auto, cpu, cuda, cuda:N"),
        (ServeOptions, {"port": 65536}, "--port 65536: at least 0, at most 65,535"),
        (SqlOptions, {"limit": 0}, "--limit 0: at least 1"),
        (FormatOptions, {"form": "xml"}, "--format 'xml': known are table"),
    ],
)
def test_one_check_serves_the_command_line_and_python(record: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        record(**values)
    assert str(caught.value).startswith(message)


def test_a_fingerprint_holds_what_it_held_before_the_records() -> None:
    assert ClusterOptions(k=6, seed=3, device="cpu", memory="1GB").document() == {
        "clusters": 6,
        "niter": 25,
        "sample": None,
        "init": "random",
        "nredo": 1,
        "normalize": False,
        "spherical": False,
    }
    options = {"bootstrap", "permute", "permutations", "ablate", "labelled_only", "min_count"}
    assert set(ScoreOptions().identity()) == options
    assert set(ScoreOptions(soft=True, only_verified=True).identity()) == {*options, "soft", "only_verified"}
    assert ProbeOptions(lr=1).identity()["lr"].hex() == (1.0).hex()


def test_the_page_of_options_is_written_from_the_records() -> None:
    assert option_tables.PAGE.read_text(encoding="utf-8") == option_tables.page(), "run: make options"
    assert {*option_tables.TABLES, "demo"} == set(COMMANDS)
    for name, tables in option_tables.TABLES.items():
        assert {each for _, record in tables for each in described(record)} == {
            each for record in COMMANDS[name] for each in described(record)
        }


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    for folder, package in (
        ("qrp_store", "qrp_store"),
        ("cli", "qrp_store/cli"),
        ("migrations", "qrp_store/migrations"),
    ):
        ignored = shutil.ignore_patterns("__pycache__", "cli", "migrations")
        shutil.copytree(REPOSITORY / folder, tmp_path / package, ignore=ignored)
    return tmp_path


def diff_of(section: str) -> str:
    page = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", page.split(f"## {section}\n")[1].split("\n## ")[0], flags=re.S)
    return diff


def run(copied: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=copied, check=True, capture_output=True, text=True
    ).stdout


def test_the_diff_that_adds_a_number_reaches_table_and_views(copied: Path) -> None:
    assert len(_apply(diff_of("A result's number"), copied)) == 2
    printed = run(
        copied,
        "-c",
        "import ast, inspect\n"
        "from qrp_store.catalog.model import tables, values, views\n"
        "from qrp_store.evaluate.probe import Outcome\n"
        "print('entropy_bits' in tables.result.c, tables.result.c.entropy_bits.nullable)\n"
        "print([name for name in ('results', 'result_versions') if 'entropy_bits' in str(views.VIEWS[name])])\n"
        "print('entropy_bits' in inspect.getsource(Outcome.row))\n",
    )
    assert printed.splitlines() == ["True True", "['results', 'result_versions']", "True"]


def test_the_diff_that_adds_an_option_does_what_the_page_says(copied: Path) -> None:
    assert len(_apply(diff_of("An option of the probe"), copied)) == 2
    entry = "from qrp_store.cli.main import main; main()"
    assert "--warmup N" in run(copied, "-c", entry, "evaluate", "--help")
    printed = run(
        copied,
        "-c",
        "import inspect\n"
        "from qrp_store.evaluate import evaluate\n"
        "from qrp_store.options import ProbeOptions\n"
        "print(inspect.signature(evaluate).parameters['warmup'].default)\n"
        "print('warmup' in ProbeOptions().identity(), ProbeOptions(warmup=3).identity()['warmup'])\n"
        "print([ProbeOptions(warmup=3, lr=2).lr_at(e) for e in (1, 2, 3, 4)])\n",
    )
    assert printed.splitlines() == ["0", "False 3", "[0.5, 1.0, 1.5, 2.0]"]


def _apply(diff: str, root: Path) -> list[Path]:
    """Apply a diff whose hunks have no line numbers; every hunk fits exactly one place. The changed files."""
    changed = []
    for part in re.split(r"^--- a/", diff, flags=re.M)[1:]:
        path = root / part.splitlines()[0]
        text = path.read_text(encoding="utf-8")
        for hunk in re.split(r"^@@\n", part, flags=re.M)[1:]:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if not line.startswith("+"))
            after = "".join(line[1:] for line in lines if not line.startswith("-"))
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed
