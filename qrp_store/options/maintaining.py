"""The options of the commands that maintain a store."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.options.declaring import Options, plain_option, required


@dataclass(frozen=True, kw_only=True)
class InitOptions(Options):
    """How a store is created."""

    adopt: bool = plain_option(False, "Use an arrays folder that is not empty; its files are never deleted.")


@dataclass(frozen=True, kw_only=True)
class MigrateOptions(Options):
    """What is brought up to date."""

    check: bool = plain_option(False, "Only check; exit 7 if the schema is not up to date.")
    new_identity: bool = plain_option(False, "Make a copied catalog and its copied arrays an independent store.")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """How much is read."""

    deep: bool = plain_option(False, "Also read every byte and check every row.")


@dataclass(frozen=True, kw_only=True)
class RepairOptions(Options):
    """What happens to artifacts that cannot be repaired, and whether code of the catalog is run."""

    keep: bool = plain_option(False, "Keep artifacts that cannot be repaired instead of retiring them; exit 6.")
    run_code: bool = plain_option(False, "Import networks that the catalog names (python/MODULE:FACTORY).")


@dataclass(frozen=True, kw_only=True)
class CopyOptions(Options):
    """The store to copy into."""

    to: str = required("The store to copy into.", metavar="DIR|URL", identity=False)
    to_arrays: str | None = plain_option(None, "Another mount of that store's arrays.", metavar="DIR|URL")


@dataclass(frozen=True, kw_only=True)
class RetireOptions(Options):
    """What is retired with an artifact."""

    cascade: bool = plain_option(False, "Also retire everything made from it.")
    yes: bool = plain_option(False, "Retire; without --yes, only list what would be retired.")


@dataclass(frozen=True, kw_only=True)
class GcOptions(Options):
    """Whether anything is deleted."""

    dry_run: bool = plain_option(False, "Only list what would be deleted.")
