"""A set's files fetched by address and MD5: taken up where a broken connection left them, and whole or not there."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from .. import config
from ..console import Bar, Progress

BLOCK = 1 << 20  # bytes
TRIES = 5  # in a row that bring no new byte
WAIT = 1.0  # seconds before another try
TIMEOUT = 30.0  # seconds without a byte
BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError)  # of the connection: worth another try


def fetch(dataset: config.Pictures, name: str, path: Path, progress: Progress) -> None:
    """Brings one of the files that the set is published as to `path`, from dataset.url or a mirror named there."""
    if dataset.url is None or name not in dataset.md5:
        raise ValueError(f"dataset.md5: none is given for {name}, so it is not fetched")
    download(f"{dataset.url.rstrip('/')}/{name}", dataset.md5[name], path, progress)


def download(url: str, expected: str, path: Path, progress: Progress) -> None:
    """Brings the file to `path`; what has come so far waits beside it as <path>.partial.

    ValueError for a wrong address or file, OSError where the network or the disk fails.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"dataset.url: {url}: must begin with http:// or https://")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if path.exists():  # another process has brought it
                return
            with open(partial, "ab") as file, progress.task(f"downloading {path.name}", None, "bytes") as bar:
                _append(url, file, bar)
            if (found := md5(partial)) != expected:
                partial.unlink()
                raise ValueError(
                    f"dataset.url: {url}: a wrong file came (MD5 {found}, not {expected}); it is thrown away"
                )
            os.replace(partial, path)
    except OSError as error:
        if error.errno is None or isinstance(error, urllib.error.URLError):  # one of ours
            raise
        raise OSError(f"dataset.root={path}: cannot be written ({error.strerror})") from error


def _append(url: str, file: BinaryIO, bar: Bar) -> None:
    """Appends what is missing, over as many connections as it takes."""
    failed, begun = 0, file.tell()
    while True:
        before = file.tell()
        try:
            if _receive(url, file, begun, bar):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            raise OSError(f"dataset.url: {url}: the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            if not isinstance(error.reason, BROKEN) or isinstance(error.reason, ConnectionRefusedError):
                raise OSError(f"dataset.url: {url}: not to be reached ({error.reason}); is there a network?") from error
            reason = str(error.reason)
        except BROKEN as error:
            reason = str(error) or type(error).__name__
        failed = 0 if file.tell() > before else failed + 1
        if failed == TRIES:
            raise OSError(
                f"dataset.url: {url}: broke off after {file.tell():,} bytes ({reason}); the next start goes on there"
            )
        time.sleep(WAIT)


def _receive(url: str, file: BinaryIO, begun: int, bar: Bar) -> bool:
    """One connection's bytes, appended; whether the file is whole by the length that the server told.

    begun: bytes that were there before this start, by which the first connection is known.
    """
    have = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
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
        if length and have == begun:
            bar.total(int(length))
        while block := answer.read1(BLOCK):
            file.write(block)
            bar.advance(len(block))
    return length is None or file.tell() == have + int(length)


def md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
