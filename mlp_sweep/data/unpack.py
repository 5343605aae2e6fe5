"""A set's tar archive unpacked: whole or not there, and nothing outside its own folder."""

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock

from .. import config
from ..console import Bar, Progress
from .archive import refuse
from .download import fetch, md5

EXPANDS = 10  # times its own size that an archive may claim to hold; one of pictures holds hardly more than its size
BLOCK = 512  # bytes of an archive that a member takes at least


_may_write = ContextVar("may_write", default=True)


@contextmanager
def writing_to_root(allowed: bool) -> Iterator[None]:
    """Whether what is done inside may fetch or unpack a set into dataset.root, which a record may have named."""
    token = _may_write.set(allowed)
    try:
        yield
    finally:
        _may_write.reset(token)


def check_may_write(root: Path) -> None:
    """ValueError where nothing may be written to dataset.root."""
    if not _may_write.get():
        raise ValueError(
            f"dataset.root={root}: nothing is fetched or unpacked there for a record alone; dataset.root={root} on the "
            "command line allows it"
        )


def unpacked(dataset: config.Pictures, name: str, folder: str, progress: Progress) -> Path:
    """root/<folder> out of the archive root/<name>: as it lies there, else unpacked, else fetched and unpacked.

    ValueError: not there and not to be fetched, or an archive that is damaged, made to do harm, or another one.
    """
    root = Path(dataset.root)
    there, archive = root / folder, root / name
    if there.is_dir():
        return there
    if archive.is_file():
        check_may_write(root)
        found, published = md5(archive), dataset.md5.get(name)
        if found != published:
            raise ValueError(
                f"dataset.root={root}: {name} in it is another or not whole (MD5 {found}, not {published}); "
                "with it deleted, dataset.download=true fetches it anew"
            )
    elif dataset.download:
        check_may_write(root)
        fetch(dataset, name, archive, progress)
    else:
        raise ValueError(
            f"dataset.root={root}: neither {folder} nor {name} in it; set dataset.download=true to fetch it"
        )
    try:
        with FileLock(root / f".{folder}.lock"):
            if not there.is_dir():  # another process may have done it since
                _unpack(archive, there, progress)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"dataset.root={root}: {name} cannot be unpacked there ({error.strerror})") from error
    return there


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Under another name first, so that what a killed process leaves is never taken for the set."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with progress.task(f"unpacking {archive.name}", archive.stat().st_size, "bytes") as bar:
            _extract(archive, partial, bar)
        if not (partial / folder.name).is_dir():
            raise ValueError(f"dataset.root={archive}: no {folder.name} in it")
        if hasattr(os, "sync"):  # not Windows
            os.sync()  # or a power cut could leave a renamed folder of empty files
        os.rename(partial / folder.name, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: Path, to: Path, bar: Bar) -> None:
    """Every member, read once from front to back."""
    seen, where, allowed = 0, f"dataset.root={archive}", EXPANDS * archive.stat().st_size
    try:
        with open(archive, "rb") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                refuse(where, member.name, member.isreg() or member.isdir())
                allowed -= max(member.size, BLOCK)
                if allowed < 0:
                    raise ValueError(f"{where}: claims to hold more than {EXPANDS} times its own size")
                path = to / member.name
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content
                with open(path, "xb") as plain:
                    shutil.copyfileobj(content, plain)
                bar.advance(file.tell() - seen)
                seen = file.tell()
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{where}: damaged ({error})") from error
