"""The sets that come as arrays: CIFAR-10, CIFAR-100 and Fashion-MNIST; their test sets validate."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import config
from ..console import Progress
from .archive import LARGEST
from .download import fetch
from .listing import Listing, Picture
from .subset import choose_classes, thin
from .unpack import check_may_write, unpacked

FASHION_MNIST = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
UNSIGNED_BYTE = 8  # the type of an IDX file's numbers


@dataclass
class Split:
    """One split's pictures (NHW where they are grey) and labels, with the names of the files that they come from."""

    pixels_NHWC: np.ndarray
    label_N: np.ndarray
    classes: Sequence[str]
    pixels_in: str
    labels_in: str

    def check(self) -> None:
        """ValueError where the files do not fit each other."""
        if len(self.label_N) != len(self.pixels_NHWC):
            raise ValueError(
                f"{self.labels_in} has {len(self.label_N):,} labels for the {len(self.pixels_NHWC):,} pictures "
                f"of {self.pixels_in}"
            )
        known = (self.label_N >= 0) & (self.label_N < len(self.classes))
        if not known.all():
            place = int(np.argmin(known))
            raise ValueError(
                f"{self.labels_in} has label {self.label_N[place]} at place {place}, and the set's "
                f"{len(self.classes)} classes are labelled 0 to {len(self.classes) - 1}"
            )


class InMemory:
    """`files` say by their sizes and times of change whether the set is the one that was prepared."""

    def __init__(self, dataset: config.Pictures, data_seed: int, files: Sequence[Path]) -> None:
        self.dataset, self.data_seed, self.files = dataset, data_seed, files
        digest = hashlib.sha256()
        for path in files:
            stat = path.stat()
            digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        self.fingerprint = digest.hexdigest()

    def open(self, train: bool) -> Split:
        raise NotImplementedError

    def listing(self) -> Listing:
        try:
            splits = {"train": self.open(True), "val": self.open(False)}
            for split in splits.values():
                split.check()
            train_in, val_in = splits["train"].pixels_in, splits["val"].pixels_in
            train_shape, val_shape = (split.pixels_NHWC.shape[1:] for split in splits.values())
            if train_shape != val_shape:
                raise ValueError(f"pictures of {train_shape} in {train_in}, and of {val_shape} in {val_in}")
        except (RuntimeError, ValueError, EOFError, OSError, AssertionError, zlib.error) as error:
            if getattr(error, "errno", None):  # the system's: nobody is to delete the files for it
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"dataset.root={self.dataset.root}: damaged ({why}); with its files deleted, dataset.download=true "
                "fetches them again"
            ) from error
        there_are = splits["train"].classes
        classes = choose_classes(self.dataset, {name: name for name in there_are}, self.data_seed)
        pixels = {key: split.pixels_NHWC for key, split in splits.items()}
        targets = {key: split.label_N for key, split in splits.items()}
        train: list[Picture] = []
        val: list[Picture] = []
        for label, name in enumerate(classes):
            of_class = {key: np.flatnonzero(t == there_are.index(name)).tolist() for key, t in targets.items()}
            if not all(of_class.values()):
                raise ValueError(f"dataset.root={self.dataset.root}: class {name} has no picture")
            chosen = thin([f"train/{i}" for i in of_class["train"]], self.dataset, self.data_seed, label)
            train += [(picture, label) for picture in chosen]
            val += [(f"val/{i}", label) for i in of_class["val"]]

        def read(name: str) -> np.ndarray:
            split, i = name.split("/")
            return pixels[split][int(i)]

        return Listing(classes, classes, train, val, read)


class Cifar(InMemory):
    """root/cifar-10-batches-py or root/cifar-100-python.

    Those files are pickles; torchvision opens each only after comparing it with the published MD5.
    """

    KINDS = {
        "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python"),
    }

    def __init__(self, dataset: config.Pictures, data_seed: int, progress: Progress) -> None:
        folder = unpacked(dataset, *self.KINDS[dataset.name], progress)
        super().__init__(dataset, data_seed, sorted(p for p in folder.iterdir() if p.is_file()))

    def open(self, train: bool) -> Split:
        from torchvision.datasets import CIFAR10, CIFAR100

        kind = CIFAR10 if self.dataset.name == "cifar10" else CIFAR100
        opened = kind(self.dataset.root, train)
        where = f"{kind.base_folder} ({'training' if train else 'test'})"
        return Split(np.asarray(opened.data), np.asarray(opened.targets), opened.classes, where, where)


class FashionMNIST(InMemory):
    """The four original files, plain or .gz, in root or where torchvision puts them (root/FashionMNIST/raw)."""

    def __init__(self, dataset: config.Pictures, data_seed: int, progress: Progress) -> None:
        self.dataset = dataset
        files = self._found()
        if files is None and dataset.download:
            check_may_write(Path(dataset.root))
            for name in FASHION_MNIST:
                fetch(dataset, f"{name}.gz", Path(dataset.root) / f"{name}.gz", progress)
            files = self._found()
        if files is None:
            raise ValueError(
                f"dataset.root={dataset.root}: not Fashion-MNIST's four files ({FASHION_MNIST[0]}.gz, ...); "
                "set dataset.download=true to fetch them, or dataset.root to their folder"
            )
        super().__init__(dataset, data_seed, files)

    def _found(self) -> list[Path] | None:
        root = Path(self.dataset.root)
        for folder in (root, root / "FashionMNIST" / "raw"):
            for ending in ("", ".gz"):
                files = [folder / f"{name}{ending}" for name in FASHION_MNIST]
                if all(path.is_file() for path in files):
                    return files
        return None

    def open(self, train: bool) -> Split:
        from torchvision.datasets import FashionMNIST

        pixels_in, labels_in = self.files[:2] if train else self.files[2:]
        return Split(idx(pixels_in, 3), idx(labels_in, 1), FashionMNIST.classes, pixels_in.name, labels_in.name)


def idx(path: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, plain or .gz: two zeros, the type, the dimensions, their sizes, data.

    ValueError says in what the file is another.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        if getattr(error, "errno", None):  # the system's, which says nothing of what is in the file
            raise
        raise ValueError(f"{path.name} cannot be read: {config.one_line(error)}") from error
    if len(content) > LARGEST:
        raise ValueError(f"{path.name} unpacks to more than {LARGEST:,} bytes")
    begin, expected = content[:4], bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if begin != expected:
        raise ValueError(
            f"{path.name} begins with {begin.hex() or 'nothing'}, and an IDX file of its kind with {expected.hex()}"
        )
    header = content[4 : 4 + 4 * dimensions]
    shape = [int.from_bytes(header[4 * i : 4 * i + 4], "big") for i in range(dimensions)]
    there, wanted = len(content) - 4 - 4 * dimensions, math.prod(shape)
    if there != wanted:
        raise ValueError(
            f"{path.name} has {max(0, there):,} bytes of data, and its header says {' x '.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
