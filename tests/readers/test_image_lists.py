"""Images in tar shards, in Parquet and in lists: the same bytes as in a folder, under the keys a user would write."""

from __future__ import annotations

import io
import pickle
import subprocess
import tarfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.images import read_image
from qrp_store.readers.image_folders import counted
from qrp_store.readers.image_lists import list_image_source


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


PICTURES = {f"{number:03}.png": png(number) for number in range(12)}
NAMES = list(PICTURES)


def save_tar(path: Path, names: Sequence[str], mode: str = "w", prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in names:
            for member, data in ((name, PICTURES[name]), (name.replace(".png", ".cls"), b"7")):
                info = tarfile.TarInfo(prefix + member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def check(source: Path, keys: Sequence[str], names: Sequence[str] = NAMES, **options: str) -> str | None:
    """The source's images have these keys and the bytes of these pictures, from several threads and after a pickle."""
    images, root = list_image_source(source, **options)
    assert [image.key for image in images] == list(keys)
    for listed in (images, pickle.loads(pickle.dumps(images))):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read_image, listed)) == [PICTURES[name] for name in names]
    return root


def test_a_tar_is_its_images_by_member(tmp_path: Path) -> None:
    assert check(save_tar(tmp_path / "x.tar", NAMES), NAMES) is None
    check(save_tar(tmp_path / "dot.tar", NAMES, prefix="./"), NAMES)
    check(save_tar(tmp_path / "deep.tar", NAMES, prefix="a/b/"), [f"a/b/{name}" for name in NAMES])


def test_a_folder_of_shards_is_keyed_by_shard_and_member(tmp_path: Path) -> None:
    save_tar(tmp_path / "train" / "00.tar", NAMES[:5])
    save_tar(tmp_path / "train" / "01.tar", NAMES[5:])
    keys = [f"train/00/{name}" for name in NAMES[:5]] + [f"train/01/{name}" for name in NAMES[5:]]
    check(tmp_path, keys)


def test_a_hard_link_in_a_tar_is_the_image_it_links_to(tmp_path: Path) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:2])
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        info = tarfile.TarInfo("again.png")
        info.type, info.linkname = tarfile.LNKTYPE, NAMES[0]
        archive.addfile(info)
    check(tmp_path / "x.tar", [*NAMES[:2], "again.png"], [*NAMES[:2], NAMES[0]])


def test_parquet_with_a_column_of_bytes(tmp_path: Path) -> None:
    data = list(PICTURES.values())
    pq.write_table(pa.table({"image": data, "label": [0] * 12}), tmp_path / "n.parquet", row_group_size=3)
    check(tmp_path / "n.parquet", [str(i) for i in range(12)])
    pq.write_table(pa.table({"key": NAMES, "jpg": data, "mask": data}), tmp_path / "k.parquet", row_group_size=5)
    check(tmp_path / "k.parquet", NAMES, field="jpg")
    with pytest.raises(InvalidInput, match="holds 2 arrays"):
        list_image_source(tmp_path / "k.parquet")


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    cells = [{"bytes": data, "path": name} for name, data in PICTURES.items()]
    (tmp_path / "data").mkdir()
    for number, part in enumerate((slice(0, 7), slice(7, None))):
        pq.write_table(pa.table({"image": cells[part]}), tmp_path / "data" / f"{number}.parquet", row_group_size=4)
    check(tmp_path / "data" / "1.parquet", NAMES[7:], NAMES[7:])
    check(tmp_path, [f"data/{int(number > 6)}/{name}" for number, name in enumerate(NAMES)])


def test_a_list_names_files_relative_to_itself_or_to_a_root(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, data in PICTURES.items():
        (tmp_path / "photos" / name).write_bytes(data)
    chosen = [NAMES[4], NAMES[1]]
    (tmp_path / "list.txt").write_text("".join(f"photos/{name}\n" for name in chosen))
    assert check(tmp_path / "list.txt", [f"photos/{name}" for name in chosen], chosen) == str(tmp_path)
    absolute = [str(tmp_path / "photos" / name) for name in chosen]
    (tmp_path / "all.txt").write_text("\n".join(absolute))
    check(tmp_path / "all.txt", absolute, chosen)
    root = str(tmp_path / "photos")
    assert check(tmp_path / "all.txt", chosen, chosen, key_root=root) == root
    with pytest.raises(InvalidInput, match="does not lie below"):
        list_image_source(tmp_path / "all.txt", key_root=str(tmp_path / "other"))


def test_images_that_are_not_there_are_listed_and_fail_when_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("absent.png\n" + "n" * 5000 + ".png\n")
    images, _ = list_image_source(tmp_path / "list.txt")
    for image in images:
        with pytest.raises(InvalidInput, match="cannot be read"):
            read_image(image)


def test_a_tar_that_ends_early_spoils_its_last_image_only(tmp_path: Path) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:3])
    whole = (tmp_path / "x.tar").read_bytes()
    at = whole.index(PICTURES[NAMES[2]])
    (tmp_path / "x.tar").write_bytes(whole[: at + 50])
    with pytest.raises(InvalidInput, match=r"x\.tar.*damaged"):
        list_image_source(tmp_path / "x.tar")


@pytest.mark.parametrize("damage", ["cut between members", "cut within a header", "a header overwritten"])
def test_a_tar_that_misses_members_is_refused(tmp_path: Path, damage: str) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:3])
    with tarfile.open(tmp_path / "x.tar") as archive:
        at = archive.getmember(NAMES[2]).offset
    whole = (tmp_path / "x.tar").read_bytes()
    kept = {"cut between members": whole[:at], "cut within a header": whole[: at + 100]}
    (tmp_path / "x.tar").write_bytes(kept.get(damage, whole[:at] + b"?" * 512 + whole[at + 512 :]))
    with pytest.raises(InvalidInput, match=rf"x\.tar: cut off or damaged at byte {at}"):
        list_image_source(tmp_path / "x.tar")


@pytest.mark.parametrize("ending", [".tar.gz", ".zip", ".doc"])
def test_what_cannot_be_read_in_pieces_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x{ending}").write_bytes(b"\x1f\x8b")
    with pytest.raises(InvalidInput, match="not a source of images") as caught:
        list_image_source(tmp_path / f"x{ending}")
    assert ("unpack" in str(caught.value.hint)) == (ending != ".doc")


def test_bad_sources_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"hello" * 500)
    (tmp_path / "bad.parquet").write_bytes(b"hello")
    pq.write_table(pa.table({"v": [[1.0]]}), tmp_path / "vectors.parquet")
    pq.write_table(pa.table({"key": ["a", "a"], "b": [b"x", b"y"]}), tmp_path / "twice.parquet")
    save_tar(tmp_path / "none.tar", [])
    (tmp_path / "empty.txt").write_text("")
    for name, said in [
        ("bad.tar", "damaged"),
        ("bad.parquet", "damaged"),
        ("vectors.parquet", "0 arrays"),
        ("twice.parquet", "duplicate key 'a'"),
        ("none.tar", "holds no images"),
        ("empty.txt", "no keys"),
    ]:
        with pytest.raises(InvalidInput, match=said) as caught:
            list_image_source(tmp_path / name)
        assert name in caught.value.message
    with pytest.raises(NotFound):
        list_image_source(tmp_path / "absent.tar")
    with pytest.raises(InvalidInput, match="key-root"):
        list_image_source(tmp_path / "none.tar", key_root="/data")


def test_a_folder_of_both_kinds_of_shards_is_refused(tmp_path: Path) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:1])
    pq.write_table(pa.table({"b": [b"x"]}), tmp_path / "x.parquet")
    with pytest.raises(InvalidInput, match=r"both \.tar and \.parquet"):
        list_image_source(tmp_path)


def test_a_row_without_bytes_fails_when_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"b": [b"x", None]}), tmp_path / "x.parquet")
    images, _ = list_image_source(tmp_path / "x.parquet")
    with pytest.raises(InvalidInput, match="no bytes"):
        read_image(images[1])


def test_parquet_with_keys_of_bytes_or_of_another_type(tmp_path: Path) -> None:
    images, names = list(PICTURES.values()), [name.encode() for name in NAMES]
    pq.write_table(pa.table({"image": images, "key": names}), tmp_path / "x.parquet")
    check(tmp_path / "x.parquet", NAMES)
    pq.write_table(pa.table({"image": pa.array([images[0]], pa.binary(len(images[0])))}), tmp_path / "y.parquet")
    check(tmp_path / "y.parquet", ["0"], NAMES[:1])
    pq.write_table(pa.table({"image": images, "key": pa.array(range(12), pa.timestamp("s"))}), tmp_path / "z.parquet")
    with pytest.raises(InvalidInput, match="column 'key' holds neither texts nor whole numbers"):
        list_image_source(tmp_path / "z.parquet")
    check(tmp_path / "z.parquet", [str(i) for i in range(12)], key_column="-")


def test_one_file_under_two_names_of_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[NAMES[0]])
    (tmp_path / "l.txt").write_text("a.png\n./a.png\n")
    with pytest.raises(InvalidInput, match=r"'a\.png' and '\./a\.png' are one file"):
        list_image_source(tmp_path / "l.txt")


def test_a_compressed_tar_is_refused_whatever_its_name(tmp_path: Path) -> None:
    save_tar(tmp_path / "x.tar", NAMES, "w:gz")
    with pytest.raises(InvalidInput, match=r"is compressed \(gzip\)"):
        list_image_source(tmp_path / "x.tar")


def test_archives_one_after_the_other_are_read_to_the_last(tmp_path: Path) -> None:
    parts = [save_tar(tmp_path / f"{i}.tar", NAMES[i : i + 3]) for i in (0, 3, 6, 9)]
    whole = tmp_path / "cat" / "x.tar"
    whole.parent.mkdir()
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    check(whole, NAMES)
    whole.write_bytes(parts[0].read_bytes() + bytes(512 * 7) + parts[1].read_bytes())
    check(whole, NAMES[:6], NAMES[:6])
    for rest in (b"garbage", b"x" * 5000, parts[1].read_bytes()[100:]):
        whole.write_bytes(parts[0].read_bytes() + rest)
        with pytest.raises(InvalidInput, match=r"behind the archive's end|cut off"):
            list_image_source(whole)
    whole.write_bytes(parts[0].read_bytes() + parts[1].read_bytes()[:700])
    with pytest.raises(InvalidInput, match=r"behind the archive's end|cut off|damaged"):
        list_image_source(whole)


@pytest.mark.parametrize("option", ["-A", "-r"])
def test_archives_that_tar_itself_enlarged(tmp_path: Path, option: str) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:6])
    save_tar(tmp_path / "y.tar", NAMES[6:])
    for name in NAMES[6:]:
        (tmp_path / name).write_bytes(PICTURES[name])
    what = ["y.tar"] if option == "-A" else NAMES[6:]
    subprocess.run(["tar", option, "-f", "x.tar", *what], cwd=tmp_path, check=True)
    check(tmp_path / "x.tar", NAMES)


def test_links_in_a_tar_lead_to_its_members_or_are_refused(tmp_path: Path) -> None:
    save_tar(tmp_path / "x.tar", NAMES[:2], prefix="data/")
    for name, target in (("links/a.png", f"../data/{NAMES[1]}"), ("links/b.png", "a.png")):
        with tarfile.open(tmp_path / "x.tar", "a") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    keys = [*(f"data/{name}" for name in NAMES[:2]), "links/a.png", "links/b.png"]
    check(tmp_path / "x.tar", keys, [*NAMES[:2], NAMES[1], NAMES[1]])
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        info = tarfile.TarInfo("c.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InvalidInput, match=r"'c\.png' is a link to a file that is not in the archive"):
        list_image_source(tmp_path / "x.tar")


def test_files_that_are_not_taken_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    names = ("a.png", "B.PNG", "deep/c.Png", "plain", "notes.txt", "x.xyz", "README", ".hidden.png", ".git/d.png")
    for name in (*names, "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "y.xyz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"text" if name == "README" else PICTURES[NAMES[0]])
    expected = {".xyz": 2, ".txt": 1, "hidden": 2, "no ending": 1, "@eaDir": 1}
    counts: Counter[str] = Counter()
    images, _ = list_image_source(folder, not_taken=counts)
    assert [image.key for image in images] == ["B.PNG", "a.png", "deep/c.Png", "plain"]
    assert counts == expected
    assert counted(counts).startswith("7 files not taken: 2 ")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(folder, ".")
    counts = Counter()
    images, _ = list_image_source(tmp_path / "x.tar", not_taken=counts)
    assert sorted(image.key for image in images) == ["B.PNG", "a.png", "deep/c.Png", "plain"]
    assert counts == expected


def test_img2datasets_output_is_its_tars(tmp_path: Path) -> None:
    for number in (0, 1):
        names = NAMES[6 * number : 6 * number + 6]
        save_tar(tmp_path / f"0000{number}.tar", names)
        rows = pa.table({"url": names, "key": names, "status": ["success"] * 6})
        pq.write_table(rows, tmp_path / f"0000{number}.parquet")
        (tmp_path / f"0000{number}_stats.json").write_text("{}")
    counts: Counter[str] = Counter()
    images, _ = list_image_source(tmp_path, not_taken=counts)
    assert [image.key for image in images] == [f"0000{i // 6}/{name}" for i, name in enumerate(NAMES)]
    assert counts == {".parquet": 2, ".json": 2, ".cls": 12}


def test_hugging_faces_paths_are_keys_only_where_each_row_has_its_own(tmp_path: Path) -> None:
    def save(paths: list[str | None], **more: list[object]) -> Path:
        cells = [{"bytes": data, "path": path} for data, path in zip(PICTURES.values(), paths, strict=True)]
        pq.write_table(pa.table({"image": cells, **more}), tmp_path / "x.parquet")
        return tmp_path / "x.parquet"

    numbers = [str(i) for i in range(12)]
    check(save([None] * 12), numbers)
    for paths, fault in (([None, *NAMES[1:]], "1 of 12 rows have no key"), ([NAMES[0]] * 12, "duplicate key")):
        path = save(paths, serial=list(range(100, 112)))
        with pytest.raises(InvalidInput, match=fault) as caught:
            list_image_source(path)
        assert "--key-column -" in str(caught.value.hint)
        check(path, numbers, key_column="-")
        check(path, [str(i) for i in range(100, 112)], key_column="serial")
    check(save([None] * 12, image_id=[float(i * 2) for i in range(12)]), [str(2 * i) for i in range(12)])
