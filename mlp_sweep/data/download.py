"""A file fetched by its address and MD5: taken up where a broken connection left it, and whole or not there."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from ..console import Bar, Progress

BLOCK = 1 << 20  # bytes
TRIES = 5  # in a row that bring no new byte
BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError)  # of the connection: worth another try


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """torchvision's download errors in one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"dataset.download=true: {what} could not be fetched ({reason}); is there a network?") from error


def download(url: str, md5: str, path: Path, progress: Progress, timeout: float = 30.0, wait: float = 1.0) -> None:
    """Brings the file to `path`; what has come so far waits beside it as <path>.partial.

    timeout: seconds without a byte; wait: seconds before another try. ValueError for a wrong address or file,
    OSError where the network or the disk fails.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"dataset.url={url}: must begin with http:// or https://")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if path.exists():  # another process has brought it
                return
            with open(partial, "ab") as file, progress.task(f"downloading {path.name}", None, "bytes") as bar:
                _fetch(url, file, bar, timeout, wait)
            if (found := _md5(partial)) != md5:
                partial.unlink()
                raise ValueError(f"dataset.url={url}: a wrong file came (MD5 {found}, not {md5}); it is thrown away")
            os.replace(partial, path)
    except OSError as error:
        if error.errno is None or isinstance(error, urllib.error.URLError):  # one of ours
            raise
        raise OSError(f"dataset.root={path}: cannot be written ({error.strerror})") from error


def _fetch(url: str, file: BinaryIO, bar: Bar, timeout: float, wait: float) -> None:
    """Appends what is missing, over as many connections as it takes."""
    failed = 0
    while True:
        before = file.tell()
        try:
            if _receive(url, file, bar, timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            raise OSError(f"dataset.url={url}: the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            if not isinstance(error.reason, BROKEN) or isinstance(error.reason, ConnectionRefusedError):
                raise OSError(f"dataset.url={url}: not to be reached ({error.reason}); is there a network?") from error
            reason = str(error.reason)
        except BROKEN as error:
            reason = str(error) or type(error).__name__
        failed = 0 if file.tell() > before else failed + 1
        if failed == TRIES:
            raise OSError(
                f"dataset.url={url}: broke off after {file.tell():,} bytes ({reason}); the next start goes on there"
            )
        time.sleep(wait)


def _receive(url: str, file: BinaryIO, bar: Bar, timeout: float) -> bool:
    """One connection's bytes, appended; whether the file is whole by the length that the server told."""
    have = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # nothing is left to send: the checksum decides
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:  # it starts anew, whatever was asked for
            file.seek(0)
            file.truncate()
            have = 0
        length = answer.headers.get("Content-Length")
        while block := answer.read1(BLOCK):
            file.write(block)
            bar.advance(len(block))
    return length is None or file.tell() == have + int(length)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
