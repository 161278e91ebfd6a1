"""Every error becomes a message that helps and an exit code; with --json, a document on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from qrp_store import errors
from qrp_store.cli.boundary import conceal, run
from qrp_store.cli.main import call
from qrp_store.cli.session import Session, command


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    def fail(session: Session) -> None:
        raise error

    command(app, "fail", example="qrp-store fail")(fail)
    app.callback()(lambda: None)
    return app


KINDS = [
    (errors.QrpStoreError("m", hint="h"), "failed", 1),
    (errors.NotFound("m", hint="h"), "not_found", 3),
    (errors.InvalidInput("m", hint="h"), "invalid_input", 4),
    (errors.Busy("m", hint="h"), "busy", 5),
    (errors.Corrupt("m", hint="h"), "corrupt", 6),
    (errors.SchemaMismatch("m", hint="h"), "schema_mismatch", 7),
    (errors.Unavailable("m", hint="h"), "unavailable", 8),
    (errors.Interrupted("m", hint="h", signal=15), "interrupted", 143),
]


@pytest.mark.parametrize(("error", "kind", "code"), KINDS, ids=[k for _, k, _ in KINDS])
def test_a_known_error_is_told_as_json_and_as_text(
    error: Exception, kind: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(get_command(app_that_raises(error)), ["fail", "--json"]) == code
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": {"kind": kind, "message": "m", "hint": "h"}}
    assert run(get_command(app_that_raises(error)), ["fail"]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "error: m\nhint: h\n")


def test_an_unexpected_error_is_one_line_unless_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    app = get_command(app_that_raises(ZeroDivisionError("by\nnothing")))
    assert run(app, ["fail", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["message"] == "ZeroDivisionError: by"
    assert shown.err == ""
    assert run(app, ["fail", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_names_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    app = get_command(app_that_raises(ModuleNotFoundError("No module named 'faiss'", name="faiss")))
    assert run(app, ["fail", "--json"]) == 8
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "unavailable"
    assert "faiss" in error["message"]
    assert "qrp-store[cpu]" in error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["cluster", "--frobnicate"],
        ["cluster"],
        ["cluster", "--dataset", "d", "--backbone", "b", "-k", "many"],
        ["cluster", "--dataset", "d", "--backbone", "b", "--sample", "some"],
        ["ls", "everything"],
        ["no-such-command"],
        ["sql"],
    ],
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*arguments, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "usage"
    assert error["hint"].endswith("--help")
    assert call(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["ingest", "x.npy", "--dataset", "d", "--backbone", "b", "--weights"], "qrp-store ingest --help"),
        (["--json", "evaluate", "--dataset"], "qrp-store evaluate --help"),
        (["label", "--dataset", "d", "--unheard-of"], "qrp-store label --help"),
        (["--store"], "qrp-store --help"),
    ],
)
def test_the_hint_of_a_usage_error_is_the_help_of_its_command(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == 2
    captured = capsys.readouterr()
    assert hint in captured.out + captured.err


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("before", [True, False])
def test_shared_options_stand_before_or_after_the_command(
    before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--store", str(tmp_path / "none"), "--json"]
    assert call([*shared, "ls"] if before else ["ls", *shared]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "not_found"
    assert "init" in error["hint"] + error["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_option_beats_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QRP_STORE", str(tmp_path / "environment"))
    assert call(["ls", "--store", str(tmp_path / "option"), "--json"]) == 3
    assert "option" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert call(["ls", "--json"]) == 3
    assert "environment" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql://me:s3cret@db/x",
        "postgresql+psycopg://me:s3c@ret@db/x failed",
        "postgresql://db/x?user=me&password=s3cret",
        "connection failed: password=s3cret host=db",
    ],
)
def test_passwords_never_show(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3c" not in conceal(text)
    assert "db" in conceal(text)
    for options in ([], ["--json"], ["--verbose"]):
        run(get_command(app_that_raises(RuntimeError(text))), ["fail", *options])
        shown = capsys.readouterr()
        assert "s3c" not in shown.out + shown.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_interruption(number: signal.Signals, code: int, tmp_path: Path) -> None:
    program = (
        "import time, typer\n"
        "from typer.main import get_command\n"
        "from qrp_store.cli.boundary import run\n"
        "from qrp_store.cli.session import Session, command\n"
        "app = typer.Typer(); app.callback()(lambda: None)\n"
        "def wait(session: Session) -> None:\n"
        "    print('waiting', flush=True)\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except Exception:\n"
        "        print('swallowed')\n"
        "command(app, 'wait', example='')(wait)\n"
        "raise SystemExit(run(get_command(app), ['wait', '--json']))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    child.send_signal(number)
    out, _ = child.communicate(timeout=20)
    assert child.returncode == code
    assert json.loads(out)["error"]["kind"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_changes_no_exit_code(number: signal.Signals) -> None:
    program = (
        "import atexit, os, sys; from qrp_store.cli.main import main; sys.argv = ['qrp-store', '--version'];"
        f"atexit.register(os.kill, os.getpid(), {int(number)}); main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("options", [(), ("--verbose",)])
def test_what_the_pool_logs_of_a_stopped_connection_is_for_the_curious(options: tuple[str, ...]) -> None:
    program = (
        "import logging, typer\n"
        "from typer.main import get_command\n"
        "from qrp_store.cli.boundary import run\n"
        "from qrp_store.cli.session import Session, command\n"
        "app = typer.Typer(); app.callback()(lambda: None)\n"
        "def log(session: Session) -> None:\n"
        "    logging.getLogger('sqlalchemy.pool.impl.QueuePool').error('during reset')\n"
        "command(app, 'log', example='')(log)\n"
        f"raise SystemExit(run(get_command(app), ['log', *{options!r}]))\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ("during reset" in child.stderr) == bool(options)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom qrp_store.cli import output\nfrom qrp_store.cli.boundary import run\n"
        "def many(**_):\n    for i in range(100_000): output.write('x' * 100)\n"
        "sys.exit(run(many, []))\n"
    )
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.read(read, 100)
    os.close(read)
    _, err = child.communicate(timeout=20)
    assert err == ""
    assert child.returncode == 141
