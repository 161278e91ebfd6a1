"""A program as another machine of the same name would run it: `other_machine.py BOOT_FILE -- PROGRAM …`.

The file's text stands for the kernel's boot id, in a mount namespace of the program's own. Needs Linux, and root or
user namespaces. Where the kernel forbids it: exit code 77.
"""

from __future__ import annotations

import ctypes
import os
import sys

from small_disk import NOT_HERE, own_mounts

BOOT_ID = b"/proc/sys/kernel/random/boot_id"
BIND = 4096

if __name__ == "__main__":
    try:
        libc = own_mounts()
        if libc.mount(os.fsencode(sys.argv[1]), BOOT_ID, None, BIND, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except (OSError, AttributeError) as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_HERE)
    os.execvp(sys.argv[3], sys.argv[3:])
