"""Archives: read in place, compared with their checksums, and refused where made to do harm."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from mlp_sweep.data.archive import LARGEST, Archive


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_read_as_they_were_written(tmp_path, compression):
    members = {"a/1": b"x" * 5000, "a/2": b"", "a/b/3": bytes(range(256))}
    made = Archive(archive(tmp_path / "t.zip", members, compression))
    assert {name: made.read(name) for name in made.members} == members
    assert made.folder("a/") == ["a/1", "a/2"] and made.folder("none/") == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_noticed(tmp_path, compression):
    path = archive(tmp_path / "t.zip", {"a": bytes(range(200))}, compression)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"dataset\.root=.*a in it is damaged"):
        Archive(path).read("a")


@pytest.mark.parametrize("name", ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg"])
def test_a_path_out_of_the_archive_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"dataset\.root=.*points out of the archive"):
        _ = Archive(archive(tmp_path / "t.zip", {name: b""})).members


def test_a_link_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        info = zipfile.ZipInfo("words.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        _ = Archive(tmp_path / "t.zip").members


def test_a_member_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(LARGEST + 1))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="claims"):
        Archive(path).read("a.jpg")


def test_a_member_longer_than_it_claims_is_cut_and_noticed(tmp_path):
    path = archive(tmp_path / "t.zip", {"a.jpg": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    size = struct.pack("<I", 1 << 20)
    path.write_bytes(data.replace(size, struct.pack("<I", 100)))
    with pytest.raises(ValueError, match="damaged"):
        Archive(path).read("a.jpg")


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    one = Archive(archive(tmp_path / "1.zip", {"a": b"1"})).fingerprint
    two = Archive(archive(tmp_path / "2.zip", {"a": b"2"})).fingerprint
    assert one != two


def zip64(plain: Path, path: Path) -> Path:
    """The archive with its directory's place and length left to zip64 records, as other programs may write it."""
    data = plain.read_bytes()
    end = data.rfind(b"PK\5\6")
    count, length, start = struct.unpack("<HII", data[end + 10 : end + 20])
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    last = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:end] + record + locator + last)
    return path


def before_it(plain: Path, path: Path) -> Path:
    """The archive behind other bytes, as one that unpacks itself: the places in it are off by as much."""
    path.write_bytes(b"#!/bin/sh\n" * 100 + plain.read_bytes())
    return path


def commented(plain: Path, path: Path) -> Path:
    path.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"of pictures"
    return path


@pytest.mark.parametrize("layout", [zip64, before_it, commented])
def test_the_fingerprint_is_of_the_directory_wherever_it_lies(tmp_path, layout):
    members = {f"train/{i}": bytes([i]) for i in range(9)}
    seen = set()
    for i in range(9):
        changed = members | {f"train/{i}": b"\xff"}
        path = layout(archive(tmp_path / "plain.zip", changed), tmp_path / "t.zip")
        assert zipfile.ZipFile(path).read(f"train/{i}") == b"\xff"
        seen.add(Archive(path).fingerprint)
    assert len(seen) == 9


@pytest.mark.parametrize("content", [b"", b"PK\5\6", b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18, bytes(100)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "t.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset\.root=.*archive|no a in it"):
        Archive(tmp_path / "t.zip").read("a")
