"""Checksums of records and arrays: every change of a name, a kind, a shape, a value or a plain word is noticed."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_sweep import sealed

ARRAYS: dict[str, Any] = {
    "a": np.arange(6, dtype=np.float64).reshape(2, 3),
    "b": np.arange(6, dtype=np.int64).reshape(2, 3),
    "c": np.arange(6, dtype=np.float32).reshape(3, 2),
}
ABOUT = {"epoch": 3, "lines": ["1,0.5"]}


def changed_header(path: Path, change) -> None:
    """The same numbers under another header, as any tool that knows the format could write it."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def swapped(header: dict, one: str, other: str) -> None:
    header[one], header[other] = header[other], header[one]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(aa=h.pop("a")),
        lambda h: h.update(d=h.pop("a")),
        lambda h: swapped(h, "a", "b"),
        lambda h: h["a"].update(dtype="I64"),
        lambda h: h["b"].update(dtype="F64"),
        lambda h: h["c"].update(dtype="I32"),
        lambda h: h["c"].update(shape=[2, 3]),
        lambda h: h["a"].update(shape=[6]),
        lambda h: h["__metadata__"].update(mlp_sweep=h["__metadata__"]["mlp_sweep"].replace("epoch", "epach")),
        lambda h: h["__metadata__"].update(mlp_sweep=h["__metadata__"]["mlp_sweep"].replace(": 3", ": 4")),
    ],
    ids=[
        "name",
        "name and order",
        "names swapped",
        "int for float",
        "float for int",
        "int32",
        "shape",
        "flat",
        "key",
        "value",
    ],
)
def test_the_same_bytes_under_another_header_are_damage(tmp_path: Path, change):
    path = tmp_path / "arrays"
    sealed.write_arrays(path, ARRAYS, ABOUT)
    changed_header(path, lambda header: None)
    assert sealed.read_arrays(path)[1] == ABOUT  # spaces are no change
    changed_header(path, change)
    with pytest.raises(ValueError, match=f"^{path}: {sealed.DAMAGED}$"):
        sealed.read_arrays(path)


def test_every_bit_of_the_numbers_counts(tmp_path: Path):
    path = tmp_path / "arrays"
    sealed.write_arrays(path, ARRAYS, ABOUT)
    data = path.read_bytes()
    numbers = sum(array.nbytes for array in ARRAYS.values())
    for at in (len(data) - numbers, len(data) - numbers // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match=sealed.DAMAGED):
            sealed.read_arrays(path)


def test_arrays_survive_the_round_trip(tmp_path: Path):
    """Of any memory order, and single numbers."""
    arrays = ARRAYS | {"turned": ARRAYS["a"].T, "one": np.array(1.5, dtype=np.float32)}
    sealed.write_arrays(tmp_path / "arrays", arrays, ABOUT)
    read, about = sealed.read_arrays(tmp_path / "arrays")
    assert read.keys() == arrays.keys() and about == ABOUT == sealed.read_about(tmp_path / "arrays")
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("old, new", [('"epoch": 3', '"epoch": 4'), ('"epoch"', '"epach"'), ('"1,0.5"', '"1,0.6"')])
def test_every_word_of_a_record_counts(tmp_path: Path, old: str, new: str):
    path = tmp_path / "record.json"
    sealed.write_record(path, ABOUT)
    assert sealed.read_record(path) == ABOUT
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"^{path}: {sealed.DAMAGED}$"):
        sealed.read_record(path)
