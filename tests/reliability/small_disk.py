"""A file system of a few megabytes that no one else sees: `small_disk.py FOLDER BYTES -- PROGRAM …` runs a program with
one (a tmpfs) mounted at an empty folder; without a program it only tries.

Needs Linux, root's rights or user namespaces, and no other program. Where the kernel forbids it: exit code 77.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOT_HERE = 77
NEW_MOUNTS, NEW_USER, ALL_BELOW, PRIVATE = 0x20000, 0x10000000, 0x4000, 1 << 18


def own_mounts() -> ctypes.CDLL:
    """Give this process and its children mounts of their own; returns libc. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS):  # not root: but root in a namespace of our own
        _must(libc.unshare(NEW_USER | NEW_MOUNTS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _must(libc.mount(b"none", b"/", None, ALL_BELOW | PRIVATE, None))
    return libc


def _must(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(folder: str, size: int) -> None:
    """Mount a tmpfs of that many bytes, seen by this process and its children alone. Raises OSError."""
    _must(own_mounts().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()))


if __name__ == "__main__":
    try:
        mount(sys.argv[1], int(sys.argv[2]))
    except (OSError, AttributeError) as error:  # AttributeError: no such function in this libc
        print(error, file=sys.stderr)
        sys.exit(NOT_HERE)
    if sys.argv[4:]:
        os.execv(sys.argv[4], sys.argv[4:])
