"""Files that are whole or absent, and whose checksum shows whether they were changed on disk.

A record is JSON with a seal, the SHA-256 of all else in it; arrays are safetensors with one in their metadata.
A file that is written here replaces the old one and never follows a link left in its place; errors name the path.
"""

import errno
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

SEAL = "seal"
DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}  # NumPy's name and that of safetensors
DAMAGED = "damaged: its content does not fit its checksum"
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)  # no such plain file


class Unreadable(ValueError):
    """The system could not read a file (no permission, too many open files): what is in it is not known.

    No caller may treat it as a missing or damaged file, and train again what the file holds.
    """


def unreadable(path: Path, error: OSError) -> ValueError:
    """The system's error in one line: a plain ValueError where the answer is that there is no such file."""
    kind = ValueError if error.errno in ABSENT else Unreadable
    return kind(f"{path}: unreadable ({error.strerror or error})")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The system's errors of reading or writing, which do not always say of what, in one line that does."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace(path: Path, *data: bytes | memoryview, sync: bool = True, shared: bool = False) -> None:
    """Puts a whole file in place of another: under another name first, on the disk, then renamed.

    shared: other processes may be putting theirs there, too; the last one stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    with naming(path):
        try:
            partial.unlink(missing_ok=True)  # a killed process's, or a link
            with open(partial, "xb") as file:
                file.writelines(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # half a file would only take the room that is short
            raise


@contextmanager
def appending(path: Path) -> Iterator[IO[str]]:
    """A text file to write at its end; OSError where it is a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with naming(path), open(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="\n") as file:
        yield file


def read(path: Path) -> bytes:
    """A plain file's bytes; a pipe in its place, which nobody writes to, is an OSError."""
    with naming(path):
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "no plain file", str(path))
        return path.read_bytes()


def write_record(path: Path, record: dict[str, Any], sync: bool = True) -> None:
    sealed = record | {SEAL: _seal(record)}
    replace(path, (json.dumps(sealed, indent=1) + "\n").encode(), sync=sync)


def read_record(path: Path) -> dict[str, Any]:
    """ValueError where it cannot be read, is no JSON object, or was changed; one without a seal is taken as it is."""
    try:
        text = read(path).decode()
        record = json.loads(text)
        if "\\ud" in text:  # half a surrogate pair can be escaped in JSON but not be written out again
            record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: unreadable ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: no JSON object")
    seal = record.pop(SEAL, None)
    if seal is not None and seal != _seal(record):
        raise ValueError(f"{path}: {DAMAGED}")
    return record


def write_arrays(path: Path, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """NumPy arrays by name, and plain values about them, in the format of safetensors.

    Not by its own `save`, which copies everything twice and, where memory is short, never returns.
    """
    text = json.dumps(about, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {"mlp_sweep": json.dumps({"about": text, SEAL: _digest(arrays, text)})}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the numbers begin at a multiple of their size
    replace(path, struct.pack("<Q", len(head)), head, *map(_bytes, arrays.values()))


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, about) as written. FileNotFoundError; ValueError where it is none of ours, or was changed."""
    with _opened(path) as (file, outer):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if outer[SEAL] != _digest(arrays, outer["about"]):
            raise ValueError(DAMAGED)
        return arrays, json.loads(outer["about"])


def read_about(path: Path) -> dict[str, Any]:
    """The plain values alone, from the file's beginning; the seal is not looked at."""
    with _opened(path) as (_, outer):
        return json.loads(outer["about"])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with naming(path):
            if path.exists() and not path.is_file():
                raise ValueError("no plain file")
            with open(path, "rb"):  # whose errors are the system's own, with their numbers
                pass
            with safe_open(path, "np") as file:
                yield file, json.loads((file.metadata() or {})["mlp_sweep"])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error if str(error) == DAMAGED else f'unreadable ({error})'}") from error


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _digest(arrays: dict[str, Any], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: Any) -> bytes | memoryview:
    return memoryview(array).cast("B") if array.flags.c_contiguous else array.tobytes()
