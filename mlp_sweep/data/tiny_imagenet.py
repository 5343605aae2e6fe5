"""Tiny ImageNet's own layout, unpacked or still in its archive.

train/<id>/images/*.JPEG, val/images/*.JPEG with val/val_annotations.txt, wnids.txt, words.txt.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Protocol

from .. import config, console
from ..console import Progress
from .archive import Archive
from .download import fetch
from .folders import EXTENSIONS, pictures_in, stamp
from .listing import Listing, Picture
from .subset import choose_classes, thin
from .unpack import check_may_write

ARCHIVE = "tiny-imagenet-200.zip"
WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"


class Files(Protocol):
    """The set's files by their paths in it, whatever holds them."""

    fingerprint: str

    def pictures(self, folder: str) -> list[str]: ...
    def read(self, name: str) -> bytes: ...


class TinyImageNet:
    def __init__(self, dataset: config.Pictures, data_seed: int, progress: Progress) -> None:
        self.dataset, self.data_seed = dataset, data_seed
        root = Path(dataset.root)
        if dataset.download and not root.exists():
            check_may_write(root)
            fetch(dataset, ARCHIVE, root, progress)
        if root.is_dir():
            inner = root / "tiny-imagenet-200"
            self.files: Files = _Folder(inner if inner.is_dir() else root)
        elif root.is_file():
            self.files = _Archive(root)
        else:
            raise ValueError(
                f"dataset.root={root}: no such archive or folder; set dataset.download=true to fetch "
                f"{ARCHIVE} (248 MB), or dataset.root to where it is, packed or unpacked"
            )
        self.fingerprint = self.files.fingerprint

    def listing(self) -> Listing:
        dataset, files = self.dataset, self.files
        words = dict(line.split("\t", 1) for line in self._lines(WORDS) if "\t" in line)
        ids = [line.strip() for line in self._lines(WNIDS)]
        self._once(WNIDS, ids)
        names = {key: words.get(key, key) for key in ids}
        classes = choose_classes(dataset, names, self.data_seed)
        label_of = {name: label for label, name in enumerate(classes)}
        train: list[Picture] = []
        for name, label in label_of.items():
            pictures = files.pictures(f"train/{name}/images/")
            if not pictures:
                raise ValueError(f"dataset.root={dataset.root}: class {name} has no picture")
            train += [(p, label) for p in thin(pictures, dataset, self.data_seed, label)]
        rows = [line.split("\t") for line in self._lines(ANNOTATIONS)]
        for row in rows:
            if len(row) < 2:
                raise ValueError(f"dataset.root={dataset.root}: {ANNOTATIONS} has the line {row[0]!r}, without a class")
        self._once(ANNOTATIONS, [row[0] for row in rows])
        val = [(f"val/images/{row[0]}", label_of[row[1]]) for row in rows if row[1] in label_of]
        self._left_out({row[0] for row in rows if row[1] in names})
        missing = sorted(set(classes) - {classes[label] for _, label in val})
        if missing:
            raise ValueError(f"dataset.root={dataset.root}: no validation picture of class {', '.join(missing)}")
        return Listing(classes, [names[name] for name in classes], train, val, files.read)

    def _lines(self, name: str) -> list[str]:
        lines = self.files.read(name).decode("utf-8-sig", errors="replace").splitlines()
        return [line for line in lines if line.strip()]

    def _left_out(self, val: set[str]) -> None:
        """Says how many validation pictures have no class among those of the set."""
        pictures = [name.removeprefix("val/images/") for name in self.files.pictures("val/images/")]
        others = [name for name in pictures if name not in val]
        if others:
            console.notice(
                f"{self.dataset.root}: {len(others):,} of {len(pictures):,} validation pictures are left out, since "
                f"{ANNOTATIONS} gives them no class of {WNIDS} (the first: {others[0]})"
            )

    def _once(self, name: str, entries: list[str]) -> None:
        """ValueError where a file lists something twice: it is unclear which entry is right."""
        for entry, count in Counter(entries).items():
            if count > 1:
                raise ValueError(f"dataset.root={self.dataset.root}: {name} lists {entry} {count} times")


class _Folder:
    def __init__(self, root: Path) -> None:
        if not (root / "wnids.txt").is_file():
            raise ValueError(f"dataset.root={root}: not Tiny ImageNet (no wnids.txt in it)")
        self.root = root
        digest = hashlib.sha256()
        for folder in [*sorted((root / "train").glob("*/images")), root / "val/images"]:
            digest.update(f"{folder.relative_to(root).as_posix()}\0".encode())
            if folder.is_dir():
                digest.update(stamp(pictures_in(folder)).encode())
        for name in (WNIDS, WORDS, ANNOTATIONS):
            digest.update(hashlib.sha256(self.read(name)).digest())
        self.fingerprint = digest.hexdigest()

    def pictures(self, folder: str) -> list[str]:
        path = self.root / folder
        return [folder + e.name for e in pictures_in(path)] if path.is_dir() else []

    def read(self, name: str) -> bytes:
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()) or not path.is_file():
            raise ValueError(f"dataset.root={self.root}: no {name} in it")
        return path.read_bytes()


class _Archive:
    def __init__(self, path: Path) -> None:
        self.archive = Archive(path)
        self.fingerprint = self.archive.fingerprint
        self._top: str | None = None

    @property
    def top(self) -> str:
        """The folder in the archive that holds wnids.txt; opening the archive for it takes half a second."""
        if self._top is None:
            found = [name for name in self.archive.members if name.split("/")[-1] == "wnids.txt"]
            if not found:
                raise ValueError(f"dataset.root={self.archive.path}: not Tiny ImageNet (no wnids.txt in it)")
            self._top = found[0].removesuffix("wnids.txt")
        return self._top

    def pictures(self, folder: str) -> list[str]:
        paths = self.archive.folder(self.top + folder)
        return [path.removeprefix(self.top) for path in paths if path.lower().endswith(EXTENSIONS)]

    def read(self, name: str) -> bytes:
        return self.archive.read(self.top + name)
