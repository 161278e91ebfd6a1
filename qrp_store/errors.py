"""All errors, grouped by what the user does next.

QrpStoreError              something failed; the message says what
├── NotFound               (also LookupError)  check the name
├── InvalidInput           (also ValueError)   change the option or the file
│   └── UnknownOption      (also TypeError)    change the argument's name
├── Busy                   another process is writing this; wait, or see `ls jobs`
├── SchemaMismatch         run the command in the message
├── Unavailable            retry: the database, the object store or a package cannot be reached
├── Corrupt                restore, repair or ingest again
└── Interrupted            stopped after a checkpoint; the same command resumes

A message names the file, row or key and the problem; `hint` says what to do. `conceal` removes passwords from both. The
command line maps `kind` to an exit code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from urllib.parse import unquote

_SHOWN = 20
_PASSWORD = re.compile(r"([A-Za-z][\w+.-]{0,30}:/{1,3}[^\s:@]*):\S*@")
_ARGUMENT = re.compile(r"""(?<![\w%.-])([\w%.-]++)(\s*=\s*|"\s*:\s*|'\s*:\s*)("[^"]*"|'[^']*'|[^&\s;,'"]+)""")
_SECRET = re.compile(r"passw(or)?d$|pwd$|secret|token$|signature$|access_?key(_?id)?$|credential$", re.I)


def conceal(text: str) -> str:
    """Return the text without passwords in URLs and without values of names like password or secret."""

    def without(match: re.Match[str]) -> str:
        name, sign, _ = match.groups()
        return f"{name}{sign}***" if _SECRET.search(unquote(name)) else match[0]

    return _ARGUMENT.sub(without, _PASSWORD.sub(r"\1:***@", text))


class QrpStoreError(Exception):
    """Base class of this package's errors. `kind` is stable and machine-readable."""

    kind = "failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = conceal(message)
        self.hint = None if hint is None else conceal(hint)
        super().__init__(self.message)


class NotFound(QrpStoreError, LookupError):
    kind = "not_found"


class InvalidInput(QrpStoreError, ValueError):
    kind = "invalid_input"


class UnknownOption(InvalidInput, TypeError):
    """An unknown or missing argument of a Python function."""


class Busy(QrpStoreError):
    kind = "busy"


class SchemaMismatch(QrpStoreError):
    kind = "schema_mismatch"


class Unavailable(QrpStoreError):
    kind = "unavailable"


class Corrupt(QrpStoreError):
    kind = "corrupt"


class Interrupted(QrpStoreError):
    """`signal` is the number of the signal that stopped the command (2 or 15)."""

    kind = "interrupted"

    def __init__(self, message: str, *, signal: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signal = signal


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error for a message; its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def did_you_mean(name: str, known: Sequence[str]) -> str | None:
    """Return a hint that names the nearest of the known names; None when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else None


def near_names(name: str, known: Sequence[str], none: str = "none") -> str:
    """Return a hint for an unknown name: the nearest known name, and all of them; `none` if there are none."""
    if not known:
        return f"there are: {none}"
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
    return (f"did you mean {near[0]}? " if near else "") + f"there are: {listed}"
