"""A zip archive of pictures read in place: nothing of it is ever unpacked to disk."""

import hashlib
import mmap
import os
import stat
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path

LARGEST = 64 << 20  # bytes of one member; a photograph of 50 megapixels is smaller


def refuse(where: str, name: str, plain: bool) -> None:
    """ValueError where an archive's member is made to do harm. plain: a file or a folder."""
    if not plain:
        raise ValueError(f"{where}: {name!r} in it is a link, not a file")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{where}: {name!r} in it points out of the archive")


class Archive:
    """Members by name. ValueError names the archive where it is none, damaged, or made to do harm."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint = self._directory_hash()

    def _directory_hash(self) -> str:
        """Hash of the archive's central directory, which holds every member's name, size and checksum.

        Where the directory lies is said in the last 22 bytes (PKWARE's APPNOTE 4.3.16); reading it so
        takes milliseconds, opening 40,000 members with zipfile more than half a second.
        """
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65557 - 76))
            tail = file.read()
            end = tail.rfind(b"PK\5\6")
            if end < 0 or len(tail) - end < 22:
                raise ValueError(f"dataset.root={self.path}: not a zip archive, or cut short")
            [length] = struct.unpack("<I", tail[end + 12 : end + 16])
            if end >= 76 and tail[end - 76 : end - 72] == b"PK\6\6" and tail[end - 20 : end - 16] == b"PK\6\7":
                end -= 76  # zip64: the last 22 bytes may leave the length to this record (4.3.14)
                [length] = struct.unpack("<Q", tail[end + 40 : end + 48])
            file.seek(max(0, size - len(tail) + end - length))
            return hashlib.sha256(file.read(min(length, size)) + struct.pack("<Q", size)).hexdigest()

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise ValueError(f"dataset.root={self.path}: not a zip archive that can be read ({error})") from error

    @cached_property
    def _bytes(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def members(self) -> dict[str, zipfile.ZipInfo]:
        """Every file in it by its path, all of them plain files inside the archive's own folder."""
        members = {}
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            refuse(f"dataset.root={self.path}", info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            members[info.filename] = info
        return members

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for name in self.members:
            folders.setdefault(name[: name.rfind("/") + 1], []).append(name)
        return folders

    def folder(self, prefix: str) -> list[str]:
        """The paths of the files directly under a folder ("a/b/"), sorted."""
        return sorted(self._by_folder.get(prefix, []))

    def read(self, name: str) -> bytes:
        """A member's bytes, compared with its checksum; one stored without compression comes straight from the file."""
        info = self.members.get(name)
        if info is None:
            raise ValueError(f"dataset.root={self.path}: no {name} in it")
        if info.file_size > LARGEST:
            raise ValueError(f"dataset.root={self.path}: {name} claims {info.file_size:,} bytes")
        if info.compress_type != zipfile.ZIP_STORED:
            try:
                return self._zip.read(info)
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
                raise ValueError(f"dataset.root={self.path}: {name} in it is damaged ({error})") from error
        at = info.header_offset
        name_length, extra_length = struct.unpack("<HH", self._bytes[at + 26 : at + 30])
        start = at + 30 + name_length + extra_length
        data = self._bytes[start : start + info.file_size]
        if zlib.crc32(data) != info.CRC:
            raise ValueError(f"dataset.root={self.path}: {name} in it is damaged (checksum)")
        return data
