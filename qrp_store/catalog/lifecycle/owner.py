"""Who writes: this process, described so that another one can tell whether it still runs."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process. `boot` changes with every boot (and pid namespace), `started` with every reuse of the pid."""

    host: str
    boot: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """The process that asks."""
    return Owner(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()) or "")


def is_gone(owner: Owner) -> bool:
    """True only when the owner provably no longer runs: it lived on this host, and is not there any more."""
    if owner.host != socket.gethostname():
        return False
    if owner.boot and _boot() and owner.boot != _boot():
        # Another boot of this host, or another container that shares its name: only the first is proof.
        return owner.boot.split("/")[0] != _boot().split("/")[0]
    if not owner.boot:
        return not _runs(owner.pid)
    started = _started(owner.pid)
    return started is None or (bool(owner.started) and started != owner.started)


def created_by() -> str:
    """user@host, as recorded with what is made."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None when it is not there or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else ""
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields[19]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
