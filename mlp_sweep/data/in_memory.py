"""The sets that torchvision holds as arrays: CIFAR-10, CIFAR-100 and Fashion-MNIST; their test sets validate."""

import gzip
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import config
from ..console import Progress
from .archive import LARGEST
from .download import fetch
from .listing import Listing, Picture
from .subset import choose_classes, thin
from .unpack import check_may_write, unpacked

FASHION_MNIST = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


class InMemory:
    """`files` say by their sizes and times of change whether the set is the one that was prepared."""

    def __init__(self, dataset: config.Pictures, data_seed: int, files: Sequence[Path]) -> None:
        self.dataset, self.data_seed, self.files = dataset, data_seed, files
        digest = hashlib.sha256()
        for path in files:
            stat = path.stat()
            digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        self.fingerprint = digest.hexdigest()

    def open(self, train: bool) -> Any:
        """torchvision's data set of one split: `data`, `targets` and `classes`."""
        raise NotImplementedError

    def listing(self) -> Listing:
        try:
            splits = {"train": self.open(True), "val": self.open(False)}
        except (RuntimeError, ValueError, EOFError, OSError, AssertionError) as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"dataset.root={self.dataset.root}: damaged ({why}); with its files deleted, dataset.download=true "
                "fetches them anew"
            ) from error
        there_are = splits["train"].classes
        classes = choose_classes(self.dataset, {name: name for name in there_are}, self.data_seed)
        pixels = {key: np.asarray(split.data) for key, split in splits.items()}
        targets = {key: np.asarray(split.targets) for key, split in splits.items()}
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

    def open(self, train: bool) -> Any:
        from torchvision.datasets import CIFAR10, CIFAR100

        kind = CIFAR10 if self.dataset.name == "cifar10" else CIFAR100
        return kind(self.dataset.root, train)


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

    def open(self, train: bool) -> Any:
        """torchvision reads unpacked files under FashionMNIST/raw alone, so they are laid out so for a moment."""
        from torchvision import datasets

        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "FashionMNIST" / "raw"
            raw.mkdir(parents=True)
            for path in self.files:
                opened = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
                with opened as packed:
                    content = packed.read(LARGEST + 1)
                if len(content) > LARGEST:
                    raise ValueError(f"{path.name} unpacks to more than {LARGEST:,} bytes")
                (raw / path.name.removesuffix(".gz")).write_bytes(content)
            return datasets.FashionMNIST(folder, train)
