"""The options of the commands that only read a store: `leaderboard`, `sql`, `serve` and every listing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qrp_store.options.declaring import Options, plain_option

Format = Literal["table", "json", "jsonl", "csv", "md", "latex"]


@dataclass(frozen=True, kw_only=True)
class FormatOptions(Options):
    """How a listing is printed. None: as a table, or as JSON with `--json`."""

    form: Format | None = plain_option(None, "Output format.", flags=("--format",), default_text="table")


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(Options):
    """Which results are ranked."""

    dataset: str | None = plain_option(None, "Only this dataset.", metavar="D", completes="datasets")
    concepts: str | None = plain_option(None, "Only this concept set.", metavar="C", completes="concepts")
    clusters: int | None = plain_option(None, "Only this K.", flags=("-k", "--clusters"), metavar="K")
    protocol: str | None = plain_option(None, "Only this protocol.", metavar="P")
    setting: str | None = plain_option(None, "Only this setting.", metavar="HASH")
    series: str | None = plain_option(None, "Only the backbones of this series, in its order.", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Which columns of the leaderboard are printed. Empty: those that a reader needs, or all as data."""

    columns: tuple[str, ...] = plain_option(
        (),
        "Only these columns of the view; also nmi (mean ± std) and ranks (the rank with its interval).",
        metavar="NAME,NAME…",
        separator=",",
    )


@dataclass(frozen=True, kw_only=True)
class SqlOptions(Options):
    """How much a query may return, and how long it may take."""

    limit: int = plain_option(100_000, "Print at most N rows.", metavar="N", minimum=1, choice=True)
    timeout: float | None = plain_option(None, "Stop after S seconds (exit 8).", metavar="S", default_text="never")


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Where the pages of a store are served, and to whom."""

    host: str = plain_option("127.0.0.1", "Address to listen on; beyond loopback it needs --token.", metavar="HOST")
    port: int = plain_option(
        8000, "Port to listen on; 0 takes a free one.", metavar="N", minimum=0, maximum=65535, choice=True
    )
    images: str | None = plain_option(
        None, "Folder of the images.", metavar="FOLDER", default_text="where they were ingested from"
    )
    token: str | None = plain_option(
        None, "Require this token from every reader.", metavar="TEXT", variable="QRP_STORE_TOKEN"
    )


@dataclass(frozen=True, kw_only=True)
class BrowserOptions(Options):
    """What happens once the pages are served."""

    browser: bool = plain_option(False, "Open the page in a browser.", flags=("--open",))
