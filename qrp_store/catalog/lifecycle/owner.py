"""The process that holds a lease, described so that another process can tell whether it still runs."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process. `boot` names machine, boot and pid namespace; `started` changes with every reuse of the pid."""

    host: str
    boot: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """The calling process."""
    return Owner(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()) or "")


def is_gone(owner: Owner) -> bool:
    """True only when the owner provably no longer runs.

    That takes an owner on this very machine: the same machine id, boot and pid namespace, so that its pid means here
    what it meant there. A hostname proves nothing: cloned machines and containers share it.
    """
    if not owner.boot or owner.boot != _boot() or owner.host != socket.gethostname():
        return False
    started = _started(owner.pid)
    if started is None:
        return not _runs(owner.pid)  # /proc may hide the processes of other users
    return started == "" or (bool(owner.started) and started != owner.started)


def created_by() -> str:
    """user@host, as recorded with what is made."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@cache
def _machine() -> str:
    """A digest of the machine's id (which is not to be shown); empty where there is none."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return hashlib.sha256(f"qrp-store:{Path(place).read_text().strip()}".encode()).hexdigest()[:12]
        except OSError:
            continue
    return ""


def _boot() -> str:
    """MACHINE/BOOT/PID NAMESPACE; empty where the kernel does not tell, and then nothing is ever proven."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{_machine()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; "" for one that has ended (a zombie), None when unseen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return "" if fields[0] in "ZX" else fields[19]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
