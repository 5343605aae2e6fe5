"""Pictures decoded once into uint8 arrays that anyone can open with NumPy, keyed by what decides their content.

<data_dir>/cache/<name>-<key>/{train_x,train_y,val_x,val_y}.npy and record.json; x is NCHW, y holds class indices.
<data_dir>/cache/requests/<key> names the folder that a request came to: requests that choose the same share it.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from .. import config, console, sealed
from .listing import Listing, Source
from .prepare import Chunk, decoded
from .read_ahead import fits
from .sources import source
from .synthetic import pictures
from .unpack import writing_to_root
from .writer import FORMAT, PARTIAL, RECORD, SPLITS, Writer, checksum, word_sum


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
    skipped: dict[str, str]  # pictures that could not be decoded, and why
    folder: Path


def load(
    dataset: config.Dataset,
    data_seed: int,
    data_dir: str,
    progress: console.Progress,
    may_prepare: bool = True,
    may_unpack: bool = True,
) -> Arrays:
    """The data set's arrays, prepared first if they are not in the cache.

    Without may_prepare nothing is written to data_dir, without may_unpack nothing to dataset.root.
    ValueError names what is wrong with the settings or the pictures, OSError what is with data_dir.
    """
    root = Path(data_dir) / "cache"
    with writing_to_root(may_unpack):
        found = source(dataset, data_seed, progress) if isinstance(dataset, config.Pictures) else None
    spec = {key: value for key, value in asdict(dataset).items() if key not in config.PLACES}
    request = _hash([FORMAT, spec, found.fingerprint if found else None, data_seed])
    pointer = root / "requests" / request
    arrays = _opened(_target(pointer), dataset.verify)
    if arrays is None and not may_prepare:
        raise ValueError(
            f"data_dir={data_dir}: its pictures are not those of this run, and none are prepared outside of ./data for "
            f"a record alone; data_dir={data_dir} on the command line allows it"
        )
    if arrays is None:
        with _writing(root), writing_to_root(may_unpack):
            arrays = _opened(_target(pointer), dataset.verify)  # somebody else may have made it since
            if arrays is None:
                arrays = _prepare(root, dataset, found, data_seed, progress)
                pointer.parent.mkdir(exist_ok=True)
                pointer.write_text(arrays.folder.name)
    return arrays


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _target(pointer: Path) -> Path:
    name = pointer.read_bytes().decode(errors="replace") if pointer.is_file() else ""
    return pointer.parent.parent / (Path(name).name or "nothing-yet")


def _opened(folder: Path, every_byte: bool = False) -> Arrays | None:
    """The arrays of a folder that is a cache of this format with nothing missing or changed, else None.

    Judged by sizes, checksums and the sums of all words (0.1 s for 500 MB; of what is larger than memory only if asked
    for), or by the fingerprint of every byte (0.5 s).
    """
    if not (folder / RECORD).exists():
        return None
    try:
        record = sealed.read_record(folder / RECORD)
        if record["format"] != FORMAT:
            return None
        for name, size in record["sizes"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{folder / name}: not the {size:,} bytes that were written")
        changed = [name for name, digest in record["sha256"].items() if checksum(folder / name) != digest]
        if every_byte or fits(sum(record["sizes"].values()), torch.device("cpu")):
            changed += [name for name, total in record["sums"].items() if word_sum(folder / name) != total]
        arrays = _open(folder, record)
        if every_byte and not changed and _fingerprint(arrays) != record["fingerprint"]:
            changed = ["pictures or labels"]
        if changed:
            raise ValueError(f"{folder / changed[0]}: {sealed.DAMAGED}")
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        refused = isinstance(error, OSError) and error.errno not in (None, *sealed.ABSENT)
        if refused or isinstance(error, sealed.Unreadable):  # an error of the system, which says nothing of the files
            raise
        said = config.one_line(error) if isinstance(error, OSError | ValueError) else f"{folder / RECORD}: not ours"
        console.notice(f"{said}; the pictures are prepared again")
        return None


def _fingerprint(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for x_NCHW, y_N in ((arrays.train_x, arrays.train_y), (arrays.val_x, arrays.val_y)):
        for x_CHW in x_NCHW:
            digest.update(x_CHW.data)
        digest.update(y_N.astype("<i8").tobytes())
    return digest.hexdigest()


def _open(folder: Path, record: dict[str, Any]) -> Arrays:
    # Copy-on-write: torch wants a writable array, the file stays as it is.
    arrays = {
        f"{split}_{kind}": np.load(folder / f"{split}_{kind}.npy", mmap_mode="c", allow_pickle=False)
        for split in SPLITS
        for kind in "xy"
    }
    return Arrays(
        **arrays,
        mean_C=np.asarray(record["mean"]),
        std_C=np.asarray(record["std"]),
        classes=record["classes"],
        names=record["names"],
        fingerprint=record["fingerprint"],
        skipped=record["skipped"],
        folder=folder,
    )


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """The cache to ourselves, emptied of what killed preparations left. OSError in one line where it cannot be written.

    One lock for all sets: a preparation uses every core anyway.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.notice(f"another process prepares pictures in {root}: waiting for it")
            lock.acquire()
        try:
            for leftover in root.glob(f"*{PARTIAL}"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
        finally:
            lock.release()
    except OSError as error:
        elsewhere = error.filename and not Path(error.filename).is_relative_to(root)
        if error.errno is None or elsewhere:  # one of ours, with its own words, or of the set's folder
            raise
        raise OSError(f"data_dir={root.parent}: pictures cannot be kept there ({error.strerror})") from error


def _prepare(
    root: Path, dataset: config.Dataset, found: Source | None, data_seed: int, progress: console.Progress
) -> Arrays:
    """The arrays of this request, made now unless another request has made the same."""
    if found is None:
        assert isinstance(dataset, config.Synthetic)
        folder = root / f"{dataset.name}-{_hash([FORMAT, asdict(dataset) | {'verify': None}, data_seed])}"
        _generate(folder, dataset, data_seed, progress)
    else:
        assert isinstance(dataset, config.Pictures)
        listing = found.listing()
        rules = [dataset.image_size, dataset.resize, dataset.interpolation, dataset.color, dataset.on_error]
        key = _hash([FORMAT, found.fingerprint, rules, listing.classes, listing.train, listing.val])
        folder = root / f"{dataset.name}-{key}"
        if made := _opened(folder, dataset.verify):
            return made
        _decode(folder, dataset, listing, progress)
    made = _opened(folder)
    if made is None:
        raise OSError(f"data_dir={root.parent}: the disk does not give back what was written to it")
    return made


def _decode(folder: Path, dataset: config.Pictures, listing: Listing, progress: console.Progress) -> None:
    shape_CHW = (1 if dataset.color == "grey" else 3, dataset.image_size, dataset.image_size)
    total = len(listing.train) + len(listing.val)
    needed, free = total * math.prod(shape_CHW), shutil.disk_usage(folder.parent).free
    if needed > free:
        where = folder.parent.parent
        raise OSError(f"data_dir={where}: the pictures take {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    with Writer(folder) as writer:
        with progress.task("preparing pictures", total, "pictures") as bar:
            for name, split in (("train", listing.train), ("val", listing.val)):
                writer.split(name, shape_CHW, decoded(listing, split, dataset, bar.advance), listing.classes)
        writer.finish(listing.classes, listing.names)
    if writer.skipped:
        console.notice(f"{len(writer.skipped)} pictures could not be decoded and are left out: {folder / RECORD}")


def _generate(folder: Path, dataset: config.Synthetic, data_seed: int, progress: console.Progress) -> None:
    with progress.task("generating pictures", None, "pictures") as bar:
        train_x, train_y, val_x, val_y = pictures(dataset, data_seed)
        bar.advance(len(train_y) + len(val_y))
    classes = [f"class {i}" for i in range(int(train_y.max()) + 1)]
    with Writer(folder) as writer:
        writer.split("train", train_x.shape[1:], [Chunk.of(train_x, train_y)], classes)
        writer.split("val", val_x.shape[1:], [Chunk.of(val_x, val_y)], classes)
        writer.finish(classes, classes)
