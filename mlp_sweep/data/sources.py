"""Which pictures a data set has, by class and split; reading and decoding them is left to cache.py.

A source is cheap to make: `fingerprint` says whether anything on disk changed, `listing()` does the work.
"""

import hashlib
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import config
from .draws import draws

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
Picture = tuple[str, int]  # name for `read`, class index


@dataclass
class Listing:
    """The pictures chosen: (name, class index) of each split, and how to read one's bytes."""

    classes: list[str]
    names: list[str]  # the classes in words, or their ids again
    train: list[Picture]
    val: list[Picture]
    read: Callable[[str], bytes]


class Source(Protocol):
    fingerprint: str

    def listing(self) -> Listing: ...


def choose_classes(
    there_are: Sequence[str], wanted: Sequence[str] | None, count: int | None, data_seed: int, where: str
) -> list[str]:
    """The classes listed, or `count` of those there are drawn by data_seed, in the order of their ids."""
    if wanted is not None:
        missing = sorted(set(wanted) - set(there_are))
        if missing:
            raise ValueError(f"dataset.classes: {where} has no class {', '.join(missing)}")
        return sorted(set(wanted))
    if count is None:
        return sorted(there_are)
    if count > len(there_are):
        raise ValueError(
            f"dataset.num_classes={count}: {where} has {len(there_are)} classes; "
            f"set dataset.num_classes={len(there_are)} or fewer (null: all of them)"
        )
    drawn = draws(data_seed, 0).choice(len(there_are), count, replace=False)
    return sorted(sorted(there_are)[i] for i in drawn)


def thin(names: list[str], count: int | None, data_seed: int, label: int) -> list[str]:
    """`count` of a class's pictures drawn by data_seed, in the order of their names; all where count is None."""
    if count is None or count >= len(names):
        return names
    drawn = draws(data_seed, 1, label).choice(len(names), count, replace=False)
    return [names[i] for i in sorted(drawn)]


def pictures_in(folder: Path) -> list[os.DirEntry[str]]:
    entries = [e for e in os.scandir(folder) if e.name.lower().endswith(EXTENSIONS) and e.is_file()]
    return sorted(entries, key=lambda e: e.name)


def classes_in(root: Path, key: str) -> list[str]:
    """The names of the class folders under root; ValueError where there are none."""
    if not root.is_dir():
        raise ValueError(f"{key}={root}: no such folder")
    classes = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    if not classes:
        raise ValueError(f"{key}={root}: no class folders in it (root/<class>/<picture> is expected)")
    return classes


def stamp(trees: Sequence[Path]) -> str:
    """Hash of every picture's path, size and time of change under some trees of class folders."""
    digest = hashlib.sha256()
    for tree in trees:
        for folder in classes_in(tree, "dataset.root"):
            for entry in pictures_in(tree / folder):
                stat = entry.stat()
                digest.update(f"{folder}/{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


class ImageFolder:
    """root/<class>/<picture>, with a second tree for validation or a stratified split drawn by data_seed."""

    def __init__(self, dataset: config.ImageFolder, data_seed: int) -> None:
        self.dataset, self.data_seed = dataset, data_seed
        root = Path(dataset.root)
        self.root = root / "train" if (root / "train").is_dir() and (root / "val").is_dir() else root
        self.val_root = Path(dataset.val_root) if dataset.val_root else None
        if self.val_root is None and self.root != root:
            self.val_root = root / "val"
        self.fingerprint = stamp([tree for tree in (self.root, self.val_root) if tree])

    def listing(self) -> Listing:
        dataset = self.dataset
        classes = choose_classes(
            classes_in(self.root, "dataset.root"), dataset.classes, dataset.num_classes, self.data_seed, str(self.root)
        )
        train: list[Picture] = []
        val: list[Picture] = []
        for label, name in enumerate(classes):
            files = self._files(self.root / name)
            if self.val_root:
                val += [(f, label) for f in self._files(self.val_root / name)]
            else:
                if len(files) < 2:
                    raise ValueError(f"{self.root / name}: one picture only, but a split needs two or more")
                shuffled = draws(self.data_seed, 2, label).permutation(files).tolist()
                held_out = max(1, round(dataset.val_fraction * len(files)))
                val += [(f, label) for f in sorted(shuffled[:held_out])]
                files = sorted(shuffled[held_out:])
            train += [(f, label) for f in thin(files, dataset.samples_per_class, self.data_seed, label)]
        return Listing(classes, classes, train, val, lambda name: Path(name).read_bytes())

    @staticmethod
    def _files(folder: Path) -> list[str]:
        files = [e.path for e in pictures_in(folder)] if folder.is_dir() else []
        if not files:
            raise ValueError(f"{folder}: no picture of this class (known endings: {' '.join(EXTENSIONS)})")
        return files


class TinyImageNet:
    """The set's own layout, unpacked or still in its archive: train/<id>/images, val/images, val_annotations.txt."""

    def __init__(self, dataset: config.TinyImageNet, data_seed: int) -> None:
        self.dataset, self.data_seed = dataset, data_seed
        root = Path(dataset.root)
        if root.is_dir():
            inner = root / "tiny-imagenet-200"
            self.files: _Folder | _Archive = _Folder(inner if inner.is_dir() else root)
        elif root.is_file():
            self.files = _Archive(root)
        else:
            raise ValueError(f"dataset.root={root}: no such archive or folder (tiny-imagenet-200.zip, or unpacked)")
        self.fingerprint = self.files.fingerprint

    def listing(self) -> Listing:
        dataset, files = self.dataset, self.files
        ids = files.lines("wnids.txt")
        names = dict(line.split("\t", 1) for line in files.lines("words.txt") if "\t" in line)
        classes = choose_classes(ids, dataset.classes, dataset.num_classes, self.data_seed, dataset.root)
        label_of = {name: label for label, name in enumerate(classes)}
        train: list[Picture] = []
        for name, label in label_of.items():
            pictures = files.pictures(f"train/{name}/images/")
            if not pictures:
                raise ValueError(f"{dataset.root}: class {name} has no picture")
            train += [(p, label) for p in thin(pictures, dataset.samples_per_class, self.data_seed, label)]
        rows = [line.split("\t")[:2] for line in files.lines("val/val_annotations.txt")]
        val = [(f"val/images/{picture}", label_of[name]) for picture, name in rows if name in label_of]
        if not val:
            raise ValueError(f"{dataset.root}: no validation picture of the chosen classes")
        return Listing(classes, [names.get(name, name) for name in classes], train, val, files.read)


class _Folder:
    def __init__(self, root: Path) -> None:
        if not (root / "wnids.txt").is_file():
            raise ValueError(f"dataset.root={root}: not Tiny ImageNet (no wnids.txt in it)")
        self.root = root
        digest = hashlib.sha256()
        for name in sorted((root / "train").glob("*/images")):
            for entry in pictures_in(name):
                stat = entry.stat()
                digest.update(f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        for name in ("wnids.txt", "val/val_annotations.txt"):
            digest.update((root / name).read_bytes())
        self.fingerprint = digest.hexdigest()

    def lines(self, name: str) -> list[str]:
        return (self.root / name).read_text().splitlines()

    def pictures(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        return [prefix + e.name for e in pictures_in(folder)] if folder.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class _Archive:
    """A zip file, its index read on first need; members stored without compression are read straight from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint = self._directory_hash()
        self._members: dict[str, zipfile.ZipInfo] = {}

    def _directory_hash(self) -> str:
        """Hash of the archive's central directory, which holds every member's name, size and checksum.

        Where the directory lies is said in the last 22 bytes (PKWARE's APPNOTE 4.3.16); reading it so
        takes milliseconds, opening 40,000 members with zipfile more than half a second.
        """
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65557))
            tail = file.read()
            end = tail.rfind(b"PK\5\6")
            if end < 0 or len(tail) - end < 22:
                raise ValueError(f"dataset.root={self.path}: not a zip archive, or cut short")
            length, start = struct.unpack("<II", tail[end + 12 : end + 20])
            file.seek(start)
            return hashlib.sha256(file.read(length) + struct.pack("<Q", size)).hexdigest()

    @property
    def members(self) -> dict[str, zipfile.ZipInfo]:
        if not self._members:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"dataset.root={self.path}: not a zip archive ({error})") from error
            with open(self.path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            infos = self._zip.infolist()
            top = next((i.filename[: -len("wnids.txt")] for i in infos if i.filename.endswith("wnids.txt")), None)
            if top is None:
                raise ValueError(f"dataset.root={self.path}: not Tiny ImageNet (no wnids.txt in it)")
            self._members = {i.filename[len(top) :]: i for i in infos if i.filename.startswith(top)}
        return self._members

    def lines(self, name: str) -> list[str]:
        return self.read(name).decode().splitlines()

    def pictures(self, prefix: str) -> list[str]:
        return sorted(n for n in self._by_folder.get(prefix, []) if n.lower().endswith(EXTENSIONS))

    @property
    def _by_folder(self) -> dict[str, list[str]]:
        if not hasattr(self, "_folders"):
            self._folders: dict[str, list[str]] = {}
            for name in self.members:
                self._folders.setdefault(name[: name.rfind("/") + 1], []).append(name)
        return self._folders

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise ValueError(f"{self.path}: no {name} in it")
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return self._zip.read(info)
        at = info.header_offset
        name_length, extra_length = struct.unpack("<HH", self._bytes[at + 26 : at + 30])
        start = at + 30 + name_length + extra_length
        return self._bytes[start : start + info.file_size]


SOURCES: dict[type[config.Dataset], Callable[..., Source]] = {
    config.ImageFolder: ImageFolder,
    config.TinyImageNet: TinyImageNet,
}


def source(dataset: config.Dataset, data_seed: int) -> Source:
    return SOURCES[type(dataset)](dataset, data_seed)
