"""Is a root fit to hold arrays? What `doctor` tries there: every promise of `Root`, on objects of its own."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from qrp_store.arrays.root import Root
from qrp_store.errors import Corrupt, NotFound, QrpStoreError
from qrp_store.records import Finding

RACERS = 32
_MEASURED_BYTES = 8 << 20
_SLOW_BYTES_PER_S = 5e6


def examine(root: Root) -> Iterator[Finding]:
    """Write, read, list, race and delete objects below `doctor/`; nothing of them stays."""
    place = f"doctor/{secrets.token_hex(6)}"
    try:
        yield from _basic(root, place)
        yield _race(root, f"{place}/race")
        yield from _speed(root, f"{place}/speed")
    finally:
        try:
            root.delete(place)
        except QrpStoreError:
            pass  # it was said above what does not work; gc removes what is left


def _basic(root: Root, place: str) -> Iterator[Finding]:
    root.put(f"{place}/a", b"one")
    wrong = []
    if root.get(f"{place}/a") != b"one":
        wrong.append("what was written is not what is read")
    root.put(f"{place}/a", b"two", replace=True)
    if root.get(f"{place}/a") != b"two":
        wrong.append("what was replaced still reads as before")
    if list(root.list(place)) != [f"{place}/a"]:
        wrong.append("what was written is not listed")
    root.delete(f"{place}/a")
    try:
        root.get(f"{place}/a")
        wrong.append("what was deleted is still read")
    except NotFound:
        pass
    if wrong:
        advice = "a cache or a replica answers: name the store itself, with strong consistency"
        yield Finding("arrays: write, read, list, delete", "problem", "; ".join(wrong), advice)
    else:
        yield Finding("arrays: write, read, list, delete", "ok", f"as promised at {root.url}")


def _race(root: Root, path: str) -> Finding:
    """Many writers of different bytes under one name at once: how many are told that they were the one."""
    ready = threading.Barrier(RACERS)

    def one(number: int) -> bool:
        ready.wait()
        try:
            root.put(path, f"racer {number}".encode())
        except Corrupt:
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        winners = sum(pool.map(one, range(RACERS)))
    outcome = f"{winners} of {RACERS} won"
    if winners == 1:
        return Finding("arrays: conditional writes", "ok", outcome)
    advice = (
        "no harm: who may write is decided in SQL; do not build locks of your own on this bucket, and update its server"
    )
    return Finding("arrays: conditional writes", "warning", outcome, advice)


def _speed(root: Root, path: str) -> Iterator[Finding]:
    data = os.urandom(_MEASURED_BYTES)
    started = time.perf_counter()
    root.put(path, data)
    written = time.perf_counter()
    same = root.get(path) == data
    read = time.perf_counter()
    rates = {"written": _MEASURED_BYTES / (written - started), "read": _MEASURED_BYTES / (read - written)}
    measured = ", ".join(f"{rate / 1e6:.0f} MB/s {what}" for what, rate in rates.items()) + " (8 MiB, one at a time)"
    if not same:
        yield Finding("arrays: throughput", "problem", "8 MiB came back changed", "do not use this storage")
    elif min(rates.values()) < _SLOW_BYTES_PER_S:
        yield Finding("arrays: throughput", "warning", measured, "slower than 5 MB/s: work nearer to the data")
    else:
        yield Finding("arrays: throughput", "ok", measured)
