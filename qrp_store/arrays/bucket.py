"""A root in an S3 bucket, over obstore: one object is one PUT, so it is there whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qrp_store.arrays import aws
from qrp_store.arrays.root import PIECE, Bytes, Entry, checked_path, read_name, write_name
from qrp_store.errors import Corrupt, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Store

_CLIENT = {"timeout": "120s", "connect_timeout": "5s", "pool_max_idle_per_host": "16"}
_RETRIES = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}


class Bucket:
    """A root below `s3://bucket/prefix`; keys, region and endpoint come from AWS_* variables or the profile (`aws`).

    A plain-HTTP AWS_ENDPOINT_URL is accepted. What is put is durable once S3 says so.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) or re.search(r"\?[\w%.-]+=", prefix):
            raise InvalidInput(
                "the arrays' root is no s3://bucket/prefix (not shown, since it may hold a key)",
                hint="keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the server into AWS_ENDPOINT_URL",
            )
        if self._prefix:
            checked_path(self._prefix)
        self._store: S3Store | None = None

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}  # another process connects anew, with its own keys

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read_identity(self) -> str | None:
        return read_name(self)

    def write_identity(self, uuid: str) -> None:
        write_name(self, uuid)

    def put(self, path: str, *parts: Bytes, replace: bool = False, durable: bool = True) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        data = b"".join(parts)
        key = checked_path(path)
        with self._translated("write", path):
            try:
                # whole in one request: a multipart upload cannot be refused when the object is there
                obstore.put(self._client(), key, data, mode="overwrite" if replace else "create", use_multipart=False)
            except AlreadyExistsError:
                if self.get(path) != data:  # a retried PUT meets its own first try: the same bytes are fine
                    what = "already there with other bytes, and what is stored never changes"
                    raise Corrupt(f"{self.url}/{path}: {what}") from None

    def sync(self, prefix: str) -> None:
        checked_path(prefix)

    def get(self, path: str) -> bytes:
        import obstore

        with self._translated("read", path):
            return bytes(obstore.get(self._client(), checked_path(path)).bytes())

    def read_into(self, path: str, out: memoryview) -> Iterator[int]:
        import obstore

        with self._translated("read", path):
            done = 0
            for chunk in obstore.get(self._client(), checked_path(path)).stream(min_chunk_size=PIECE):
                piece = memoryview(chunk)
                room = min(len(piece), len(out) - done)
                out[done : done + room] = piece[:room]
                done += room
                yield done
                if room < len(piece):
                    yield done + 1
                    return

    def read_ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        import obstore

        key, filled = checked_path(path), [(start, stop) for start, stop in spans if start < stop]
        starts, ends = [start for start, _ in filled], [stop for _, stop in filled]
        if max(ends, default=0) > self.size(path):  # S3 refuses what lies behind the end
            whole = self.get(path)
            return [whole[start:stop] for start, stop in spans]
        with self._translated("read", path):
            parts = iter(obstore.get_ranges(self._client(), key, starts=starts, ends=ends) if filled else [])
            return [bytes(next(parts)) if start < stop else b"" for start, stop in spans]

    def size(self, path: str) -> int:
        import obstore

        with self._translated("read", path):
            return int(obstore.head(self._client(), checked_path(path))["size"])

    def exists(self, path: str) -> bool:
        try:
            self.size(path)
        except NotFound:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        import obstore

        with self._translated("list", prefix):
            pages = obstore.list(self._client(), checked_path(prefix) if prefix else None)
            paths = [str(meta["path"]) for page in pages for meta in page]
        yield from sorted(paths)

    def entries(self, prefix: str) -> Iterator[Entry]:
        import obstore

        with self._translated("list", prefix):
            for page in obstore.list(self._client(), checked_path(prefix) if prefix else None):
                for meta in page:
                    yield Entry(str(meta["path"]), int(meta["size"]), meta["last_modified"].timestamp())

    def delete(self, prefix: str) -> None:
        import obstore

        below = list(self.list(prefix))
        with self._translated("delete", prefix):
            obstore.delete(self._client(), [*below, checked_path(prefix)])

    def sweep(self, older_than_s: float) -> int:
        return 0  # an unfinished PUT leaves nothing

    def link(self, source: str, target: str, names: Iterable[str]) -> None:
        import obstore

        for name in names:
            old, new = checked_path(f"{source}/{name}"), checked_path(f"{target}/{name}")
            with self._translated("copy", old):
                obstore.copy(self._client(), old, new)

    def _client(self) -> S3Store:
        if self._store is None:
            try:
                from obstore.store import S3Store
            except ImportError as error:
                raise Unavailable("arrays on S3 need obstore", hint="pip install 'qrp-store[s3]'") from error
            reached = aws.access()
            plain = {"allow_http": True} if (reached.endpoint or "").startswith("http://") else {}
            self._store = S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=dict(reached.config),  # type: ignore[arg-type]
                client_options={**_CLIENT, **plain},  # type: ignore[arg-type]
                retry_config=_RETRIES,  # type: ignore[arg-type]
            )
        return self._store

    @contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        """The one seam where obstore's errors become ours."""
        try:
            from obstore.exceptions import BaseError, NotFoundError
        except ImportError as error:
            raise Unavailable("arrays on S3 need obstore", hint="pip install 'qrp-store[s3]'") from error
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise Unavailable(f"there is no bucket {self._bucket!r}", hint="make it, or mend the name") from error
            raise NotFound(f"{self.url}/{path}: no such object") from error
        except (BaseError, OSError) as error:
            if "NoSuchBucket" in str(error):
                raise Unavailable(f"there is no bucket {self._bucket!r}", hint="make it, or mend the name") from error
            reason, hint = aws.explained(error)
            raise Unavailable(f"cannot {verb} {self.url}/{path}: {reason}", hint=hint) from error
        except BaseException as error:
            panic = aws.panicked(error)
            if panic is None:
                raise
            raise panic from error
