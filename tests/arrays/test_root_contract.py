"""What every place for arrays must do. A second kind of root is one more subclass of `RootContract`."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qrp_store.arrays import health
from qrp_store.arrays.location import open_root
from qrp_store.arrays.root import Root
from qrp_store.errors import Corrupt, InvalidInput, NotFound, Unavailable


class RootContract:
    """Subclass with a `root` fixture: an empty Root."""

    def test_what_is_put_comes_back(self, root: Root) -> None:
        root.put("a/b/c", b"one", memoryview(b"two"), b"")
        assert root.get("a/b/c") == b"onetwo"
        assert root.size("a/b/c") == 6
        assert [root.exists(p) for p in ("a/b/c", "a/b", "a/b/d")] == [True, False, False]

    def test_an_object_never_changes(self, root: Root) -> None:
        root.put("a", b"same")
        root.put("a", b"sa", b"me")
        with pytest.raises(Corrupt, match=r"a.*other bytes"):
            root.put("a", b"else")
        with pytest.raises(Corrupt):
            root.put("a", b"same and more")
        assert root.get("a") == b"same"

    def test_an_object_nobody_refers_to_can_be_replaced(self, root: Root) -> None:
        root.put("a", b"old")
        root.put("a", b"newer", replace=True)
        assert root.get("a") == b"newer"

    def test_a_missing_object_is_not_found(self, root: Root) -> None:
        for look in (root.get, root.size, lambda p: list(root.read_into(p, memoryview(bytearray(1))))):
            with pytest.raises(NotFound, match="nothing"):
                look("here/nothing")

    def test_reading_into_a_buffer_tells_shorter_from_longer(self, root: Root) -> None:
        data = os.urandom(3_000_000)
        root.put("a", data)
        for room, end in ((len(data), len(data)), (len(data) + 5, len(data)), (len(data) - 5, len(data) - 4)):
            buffer = bytearray(room)
            seen = list(root.read_into("a", memoryview(buffer)))
            assert seen == sorted(seen)
            assert seen[-1] == end
            assert buffer[: len(data)] == data[:room]

    def test_listing_is_recursive_and_sorted(self, root: Root) -> None:
        for path in ("x/c/1/0", "x/zarr.json", "x/c/0/0", "xy/z"):
            root.put(path, b"")
        assert list(root.list("x")) == ["x/c/0/0", "x/c/1/0", "x/zarr.json"]
        assert list(root.list("")) == ["x/c/0/0", "x/c/1/0", "x/zarr.json", "xy/z"]
        assert list(root.list("none")) == []

    def test_ranges_are_pieces_of_an_object_and_end_where_it_ends(self, root: Root) -> None:
        root.put("x", bytes(range(200)) * 100)
        spans = [(0, 1), (150, 250), (19_999, 20_000), (5, 5)]
        assert root.read_ranges("x", spans) == [(bytes(range(200)) * 100)[a:b] for a, b in spans]
        assert root.read_ranges("x", [(0, 2), (19_990, 20_010)]) == [b"\0\1", bytes(range(190, 200))]
        assert root.read_ranges("x", [(30_000, 30_010)]) == [b""]
        with pytest.raises(NotFound):
            root.read_ranges("y", [(0, 1)])

    def test_deleting_takes_a_folder_or_an_object_and_nothing_else(self, root: Root) -> None:
        for path in ("x/1", "x/2", "xy/1"):
            root.put(path, b"")
        root.delete("x/1")
        assert list(root.list("")) == ["x/2", "xy/1"]
        root.delete("x")
        root.delete("x")
        assert list(root.list("")) == ["xy/1"]

    def test_linking_shares_objects_and_survives_the_source(self, root: Root) -> None:
        root.put("old/c/0", b"zero")
        root.put("old/c/1", b"one")
        root.link("old", "new", ["c/0"])
        root.link("old", "new", ["c/0", "c/1"])
        root.delete("old")
        assert {p: root.get(p) for p in root.list("")} == {"new/c/0": b"zero", "new/c/1": b"one"}

    def test_a_path_that_is_no_folder_lists_as_nothing(self, root: Root) -> None:
        root.put("x", b"")
        assert list(root.list("x")) == []

    def test_sweeping_leaves_objects_alone(self, root: Root) -> None:
        assert root.sweep(older_than_s=0) == 0
        root.put("x/y", b"here")
        assert root.sweep(older_than_s=-1) == 0
        assert root.get("x/y") == b"here"

    def test_linking_what_is_missing_is_not_found(self, root: Root) -> None:
        with pytest.raises(NotFound):
            root.link("old", "new", ["c/0"])

    @pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", "", "a/", "./a", "a\\b", "a\0b", "a/.partial-x"])
    def test_a_path_stays_below_the_root(self, root: Root, path: str) -> None:
        with pytest.raises(InvalidInput, match="not a path below"):
            root.put(path, b"")

    def test_a_root_belongs_to_one_store(self, root: Root) -> None:
        assert root.read_identity() is None
        root.write_identity("11-22")
        root.write_identity("11-22")
        assert root.read_identity() == "11-22"
        with pytest.raises(InvalidInput, match="another store"):
            root.write_identity("33-44")
        assert root.read_identity() == "11-22"

    @pytest.mark.parametrize("text", [b"{", b"[]", b'{"uuid": 3}', b"\xff"])
    def test_a_damaged_identity_is_corrupt(self, root: Root, text: bytes) -> None:
        root.put("qrp-store.json", text)
        with pytest.raises(Corrupt, match=r"qrp-store\.json"):
            root.read_identity()

    def test_of_many_writers_at_once_one_wins_and_the_others_hear_of_it(self, root: Root) -> None:
        outcomes: list[bytes | None] = []
        gate = threading.Barrier(8)

        def write(body: bytes) -> None:
            gate.wait()
            try:
                root.put("deep/er/race", body)
                outcomes.append(body)
            except Corrupt:
                outcomes.append(None)

        threads = [threading.Thread(target=write, args=(bytes([i % 4]) * 1000,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [o for o in outcomes if o is not None]
        assert (len(outcomes), len(winners)) == (8, 2)
        assert set(winners) == {root.get("deep/er/race")}


class TestDirectory(RootContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> Root:
        return open_root(str(tmp_path / "some" / "arrays"))

    def test_looking_creates_nothing(self, tmp_path: Path) -> None:
        root = open_root(str(tmp_path / "arrays"))
        assert (root.read_identity(), list(root.list("")), root.exists("a")) == (None, [], False)
        root.delete("a")
        assert list(tmp_path.iterdir()) == []
        assert root.url == str(tmp_path / "arrays")

    def test_a_writer_killed_midway_leaves_no_object(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from qrp_store.arrays import directory, location\n"
            "directory.os.fsync = lambda fd: os._exit(9)\n"
            "location.open_root(sys.argv[1]).put('zero', b'bytes')"
        )
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60).returncode == 9
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".partial-")]
        root = open_root(str(tmp_path))
        assert root.sweep(older_than_s=3600) == 0
        assert [p.name for p in tmp_path.iterdir()], "a writer may still be at it"
        assert list(root.list("")) == []
        assert not root.exists("zero")
        root.put("zero", b"other")
        assert root.get("zero") == b"other"
        assert root.sweep(older_than_s=-1) == 5
        assert [p.name for p in tmp_path.iterdir()] == ["zero"]

    def test_nothing_partial_stays_behind_a_failed_write(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            open_root(str(tmp_path)).put("a", b"good", 7)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_unavailable(self, tmp_path: Path) -> None:
        """A limit on file size stands in for a full disk: the system call fails in the same place."""
        code = (
            "import resource, signal, sys; from qrp_store.arrays.location import open_root\n"
            "from qrp_store.errors import Unavailable\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "root = open_root(sys.argv[1]); root.put('small', b'x')\n"
            "try: root.put('big', b'x' * 5000)\n"
            "except Unavailable as error: print(error, error.hint, list(root.list('')))"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
        assert re.search(r"cannot write .*\['small'\]", done.stdout), done
        assert [p.name for p in tmp_path.iterdir()] == ["small"]

    def test_a_file_where_a_folder_should_be_is_not_silently_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"mine")
        with pytest.raises((NotFound, Unavailable)):
            open_root(str(tmp_path / "file")).put("a", b"b")
        assert (tmp_path / "file").read_bytes() == b"mine"

    def test_other_kinds_of_address_are_refused_without_their_password(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            open_root("ftp://me:secret@host/x")
        assert "secret" not in str(caught.value)


class BucketContract(RootContract):
    """Subclass with a `new_bucket` fixture."""

    @pytest.fixture
    def root(self, new_bucket: Callable[[], str]) -> Root:
        return open_root(f"{new_bucket()}/team/arrays")

    def test_an_object_is_where_its_url_says(self, new_bucket: Callable[[], str]) -> None:
        bucket = new_bucket()
        root = open_root(f"{bucket}/team/arrays/")
        root.put("x/y", b"data")
        assert root.url == f"{bucket}/team/arrays"
        assert open_root(f"{bucket}/team").get("arrays/x/y") == b"data"
        assert list(open_root(bucket).list("")) == ["team/arrays/x/y"]

    def test_another_process_connects_anew(self, root: Root) -> None:
        root.put("a", b"b")
        assert pickle.loads(pickle.dumps(root)).get("a") == b"b"

    def test_no_bucket_is_unavailable_and_no_secret_shows(self, new_bucket: Callable[[], str]) -> None:
        new_bucket()
        root = open_root("s3://nobodys-bucket/x")
        for ask in (lambda: root.put("a", b"b"), lambda: list(root.list(""))):
            with pytest.raises(Unavailable) as caught:
                ask()
            assert "sEcReT" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://key:secret@bucket/x", "s3://b/a//b", "s3://b/../x"])
    def test_an_address_that_is_none(self, url: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            open_root(url)
        assert "secret" not in str(caught.value)

    def test_a_prefix_may_hold_any_text(self, new_bucket: Callable[[], str]) -> None:
        bucket = new_bucket()
        root = open_root(f"{bucket}/labör 1/a%20b#c")
        root.put("x/y", b"data")
        assert list(open_root(bucket).list("")) == ["labör 1/a%20b#c/x/y"]

    @pytest.mark.parametrize("megabytes", [0, 6])
    def test_a_block_of_any_size_is_one_object(self, root: Root, megabytes: int) -> None:
        data = os.urandom(megabytes << 20)
        root.put("x/c/0/0", data)
        assert root.size("x/c/0/0") == len(data)
        assert root.get("x/c/0/0") == data
        assert root.read_ranges("x/c/0/0", [(5 << 20, (5 << 20) + 9)]) == [data[5 << 20 : (5 << 20) + 9]]


class TestBucketOfMoto(BucketContract):
    @pytest.fixture
    def new_bucket(self, new_moto_bucket: Callable[[], str]) -> Callable[[], str]:
        return new_moto_bucket


class TestBucketOfSeaweedFS(BucketContract):
    @pytest.mark.parametrize("objects", [1_100, pytest.param(10_000, marks=pytest.mark.soak)])
    def test_a_long_listing_is_whole(self, root: Root, objects: int, figure: Callable[[str], None]) -> None:
        names = [f"embedding/emb-1/e0/vectors/c/{number}/0" for number in range(objects)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: root.put(name, b"row", replace=True), names))
        assert list(root.list("embedding")) == sorted(names)
        assert {entry.path: entry.size for entry in root.entries("")} == dict.fromkeys(names, 3)
        assert list(root.list("embedding/emb-1/e0/vectors/c/1")) == ["embedding/emb-1/e0/vectors/c/1/0"]
        root.delete("embedding/emb-1")
        assert list(root.list("")) == []
        figure(f"{objects} objects in a bucket: all listed, all deleted")

    def test_a_wrong_key_is_named_and_not_shown(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        root.put("a", b"b")
        for variable, what in (("AWS_SECRET_ACCESS_KEY", "the secret key"), ("AWS_ACCESS_KEY_ID", "this access key")):
            with monkeypatch.context() as changed:
                changed.setenv(variable, "wRoNg-value")
                with pytest.raises(Unavailable, match=what) as caught:
                    pickle.loads(pickle.dumps(root)).get("a")
                assert variable in str(caught.value.hint)
                assert "wRoNg-value" not in f"{caught.value} {caught.value.hint}"
        assert root.get("a") == b"b"

    def test_an_upload_in_parts_is_read_like_any_other(self, new_bucket: Callable[[], str]) -> None:
        """Other tools that fill the bucket (`aws s3 sync`) send large objects in parts."""
        import obstore
        from obstore.store import S3Store

        bucket, data = new_bucket(), os.urandom(11 << 20)
        other = S3Store(bucket.removeprefix("s3://"), prefix="p", client_options={"allow_http": True})
        obstore.put(other, "x/c/0/0", data, use_multipart=True, chunk_size=5 << 20)
        root = open_root(f"{bucket}/p")
        assert (root.size("x/c/0/0"), root.get("x/c/0/0")) == (len(data), data)
        assert root.read_ranges("x/c/0/0", [((5 << 20) - 2, (5 << 20) + 2)]) == [data[(5 << 20) - 2 : (5 << 20) + 2]]
        with pytest.raises(Corrupt):
            root.put("x/c/0/0", b"other")

    def test_of_thirty_two_conditional_writes_one_wins(self, root: Root) -> None:
        checks = {finding.check: finding for finding in health.examine(root)}
        assert checks["arrays: conditional writes"].found == f"1 of {health.RACERS} won"
        assert checks["arrays: write, read, list, delete"].status == "ok"
