"""Pictures decoded once into uint8 arrays that anyone can open with NumPy, keyed by what decides their content.

<data_dir>/cache/<name>-<key>/{train_x,train_y,val_x,val_y}.npy and record.json, made under another name
and renamed when whole. x is NCHW; y holds class indices.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from .. import config
from ..console import Progress
from .sources import Listing, Picture, source
from .synthetic import pictures

FORMAT = 1  # raised whenever the same request would make other bytes
CHUNK = 1024  # pictures decoded, summed and written at a time: 12.6 MB of 64 x 64


@dataclass
class Arrays:
    """A data set ready to train on: memory-mapped uint8 pictures, labels, and what they are."""

    train_x: np.ndarray  # NCHW
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    mean_C: np.ndarray  # per channel over the training pictures, in grey levels
    std_C: np.ndarray
    classes: list[str]
    names: list[str]
    fingerprint: str  # of every byte of the pictures and labels


def load(dataset: config.Dataset, data_seed: int, data_dir: str, progress: Progress) -> Arrays:
    """The data set's arrays, prepared first if they are not in the cache. ValueError says what is amiss."""
    root = Path(data_dir) / "cache"
    if isinstance(dataset, config.Synthetic):
        found, origin = None, ""
    else:
        found = source(dataset, data_seed)
        origin = found.fingerprint
    spec = asdict(dataset) | {"root": None, "val_root": None}
    request = _hash({"format": FORMAT, "dataset": spec, "origin": origin, "data_seed": data_seed})
    pointer = root / "requests" / request
    if not _whole(folder := _target(root, pointer)):
        pointer.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{request}.lock"):
            if not _whole(folder := _target(root, pointer)):
                if found is None:
                    assert isinstance(dataset, config.Synthetic)
                    folder = _prepare_synthetic(root, request, dataset, data_seed, progress)
                else:
                    folder = _prepare(root, dataset, origin, found.listing(), progress)
                pointer.write_text(folder.name)
    return _open(folder)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _target(root: Path, pointer: Path) -> Path:
    """Where a request's arrays lie: different requests (a data_seed that chose nothing) may share them."""
    return root / (pointer.read_text() if pointer.is_file() else "nothing-yet")


def _whole(folder: Path) -> bool:
    record = folder / "record.json"
    if not record.is_file():
        return False
    sizes = json.loads(record.read_text())["sizes"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _open(folder: Path) -> Arrays:
    record = json.loads((folder / "record.json").read_text())
    # Copy-on-write: torch wants a writable array, the file stays as it is.
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        for name in ("train_x", "train_y", "val_x", "val_y")
    }
    return Arrays(
        **arrays,
        mean_C=np.asarray(record["mean"]),
        std_C=np.asarray(record["std"]),
        classes=record["classes"],
        names=record["names"],
        fingerprint=record["fingerprint"],
    )


def _prepare_synthetic(root: Path, key: str, dataset: config.Synthetic, data_seed: int, progress: Progress) -> Path:
    with progress.task("generating pictures", None, "pictures") as bar:
        train_x, train_y, val_x, val_y = pictures(dataset, data_seed)
        bar.advance(len(train_y) + len(val_y))
    classes = [f"class {i}" for i in range(int(train_y.max()) + 1)]
    with _Writer(root / f"{dataset.name}-{key}") as writer:
        writer.split("train", train_x.shape, [train_x], train_y)
        writer.split("val", val_x.shape, [val_x], val_y)
        writer.finish(classes, classes)
    return writer.folder


def _prepare(root: Path, dataset: config.Dataset, origin: str, listing: Listing, progress: Progress) -> Path:
    key = _hash([FORMAT, origin, dataset.image_size, listing.classes, listing.train, listing.val])
    with _Writer(root / f"{dataset.name}-{key}") as writer:
        total = len(listing.train) + len(listing.val)
        with progress.task("preparing pictures", total, "pictures") as bar:
            for name, split in (("train", listing.train), ("val", listing.val)):
                shape = (len(split), 3, dataset.image_size, dataset.image_size)
                labels = np.array([label for _, label in split])
                writer.split(name, shape, _decoded(listing, split, dataset.image_size, bar.advance), labels)
        writer.finish(listing.classes, listing.names)
    return writer.folder


def _decoded(listing: Listing, split: Sequence[Picture], size: int, advance: Any) -> Iterator[np.ndarray]:
    """The split's pictures in order, CHUNK at a time, decoded on all cores (the decoders release the GIL)."""
    from .decode import decode  # torchvision takes two seconds to import and is needed here alone

    step = 32

    def part(start: int) -> np.ndarray:
        names = [name for name, _ in split[start : start + step]]
        out = np.stack([decode(listing.read(name), size, name) for name in names])
        advance(len(names))
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(split), CHUNK):
            yield np.concatenate(list(pool.map(part, range(start, min(start + CHUNK, len(split)), step))))


class _Writer:
    """Writes a cache folder under another name, summing as it goes, and renames it when whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        self.digest = hashlib.sha256()
        self.moments: tuple[np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> "_Writer":
        self.partial.mkdir(parents=True)
        return self

    def split(self, name: str, shape: tuple[int, ...], chunks: Iterator[np.ndarray] | list, labels: np.ndarray) -> None:
        sums, squares = np.zeros(shape[1]), np.zeros(shape[1])
        with open(self.partial / f"{name}_x.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                _write(file, chunk, self.digest)
                if name == "train":
                    # Sums of at most 258 squares of bytes are whole numbers below 2^24: exact in float32.
                    x = chunk.astype(np.float32)
                    sums += x.sum(3).sum((0, 2), dtype=np.float64)
                    squares += np.square(x, out=x).sum(3).sum((0, 2), dtype=np.float64)
        if name == "train":
            count = shape[0] * shape[2] * shape[3]
            mean = sums / count
            self.moments = mean, np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        np.save(self.partial / f"{name}_y.npy", labels.astype(np.int64))
        self.digest.update(labels.astype("<i8").tobytes())

    def finish(self, classes: list[str], names: list[str]) -> None:
        assert self.moments is not None
        record = {
            "format": FORMAT,
            "fingerprint": self.digest.hexdigest(),
            "classes": classes,
            "names": names,
            "mean": self.moments[0].tolist(),
            "std": self.moments[1].tolist(),
            "sizes": {path.name: path.stat().st_size for path in self.partial.glob("*.npy")},
        }
        (self.partial / "record.json").write_text(json.dumps(record, indent=1))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(self.partial, self.folder)

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _write(file: BinaryIO, chunk: np.ndarray, digest: Any) -> None:
    data = memoryview(np.ascontiguousarray(chunk)).cast("B")
    digest.update(data)
    file.write(data)
