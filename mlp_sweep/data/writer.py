"""A cache folder being made: written under another name, summed as it goes, renamed when whole."""

import hashlib
import io
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import sealed
from .prepare import Chunk

FORMAT = 4  # raised whenever the same request would make other bytes or another record
RECORD = "record.json"
PARTIAL = ".partial"  # ending of a folder that is not whole yet
SPLITS = ("train", "val")
PAGE = 4096  # bytes


class Writer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = folder.with_name(f"{folder.name}{PARTIAL}")
        self.fingerprint = hashlib.sha256()
        self.label_sums: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.mean_C = self.std_C = np.empty(0)

    def __enter__(self) -> "Writer":
        self.partial.mkdir(parents=True)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)

    def split(self, name: str, shape_CHW: Sequence[int], chunks: Iterable[Chunk], classes: Sequence[str]) -> None:
        """Writes a split's arrays. ValueError where skipping left a class without a picture."""
        sum_C, squares_C = np.zeros((2, shape_CHW[0]), np.uint64)
        labels = []
        with open(self.partial / f"{name}_x.npy", "wb") as file:
            file.write(header((0, *shape_CHW)))
            for chunk in chunks:
                self.fingerprint.update(chunk.x_NCHW.data)
                file.write(chunk.x_NCHW.data)
                sum_C += chunk.sum_C
                squares_C += chunk.squares_C
                labels.append(chunk.y_N)
                self.skipped |= chunk.skipped
            y_N = np.concatenate(labels)
            file.seek(0)  # the count is known only now that the skipped ones are
            file.write(header((len(y_N), *shape_CHW)))
        empty = sorted(set(range(len(classes))) - set(y_N.tolist()))
        if empty:
            raise ValueError(
                f"dataset.on_error=skip: no {name} picture is left of class {', '.join(classes[i] for i in empty)}"
            )
        if name == "train":
            count = len(y_N) * shape_CHW[1] * shape_CHW[2]
            self.mean_C = sum_C / count
            self.std_C = np.sqrt(np.maximum(squares_C / count - self.mean_C**2, 1e-12))
        np.save(self.partial / f"{name}_y.npy", y_N)
        self.fingerprint.update(y_N.astype("<i8").tobytes())
        self.label_sums[f"{name}_y.npy"] = checksum(self.partial / f"{name}_y.npy")

    def finish(self, classes: list[str], names: list[str]) -> None:
        record: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self.fingerprint.hexdigest(),  # of train_x, train_y, val_x and val_y, less their headers
            "classes": classes,
            "names": names,
            "mean": self.mean_C.tolist(),
            "std": self.std_C.tolist(),
            "skipped": self.skipped,
            "sizes": {path.name: path.stat().st_size for path in sorted(self.partial.glob("*.npy"))},
            "sha256": self.label_sums,
            "sums": {path.name: word_sum(path) for path in sorted(self.partial.glob("*_x.npy"))},
        }
        for path in self.partial.iterdir():
            _sync(path)  # or a power cut could leave a renamed folder of empty files
        sealed.write_record(self.partial / RECORD, record)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(self.partial, self.folder)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def word_sum(path: Path) -> int:
    """Sum of a file's 64-bit words: at 8 GB/s it finds what disks and cables do to bytes, for every start to ask."""
    bytes_N = np.memmap(path, np.uint8, "r")
    whole = len(bytes_N) // 8 * 8
    return int(bytes_N[:whole].view("<u8").sum(dtype=np.uint64)) + int(bytes_N[whole:].sum(dtype=np.uint64))


def header(shape: tuple[int, ...]) -> bytes:
    """The .npy header of a uint8 array, a page long whatever the shape.

    So a picture lies in as few pages as it can: one of 64 x 64 in three, where NumPy's own header makes it four.
    """
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    magic, text = file.getvalue()[:8], file.getvalue()[10:].rstrip()
    padded = text.ljust(PAGE - 11) + b"\n"
    return magic + struct.pack("<H", len(padded)) + padded


def _sync(path: Path) -> None:
    with open(path, "r+b") as file:  # Windows syncs nothing that it may only read
        os.fsync(file.fileno())
