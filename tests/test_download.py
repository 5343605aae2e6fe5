"""Downloads from a server on loopback that cuts the connection, sends a wrong file, or is slow."""

import hashlib
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_sets import IDS, arrays, settings, tiny_imagenet_tree, zipped

from mlp_sweep.console import Progress
from mlp_sweep.data.download import download

CONTENT = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves `content`; `answer(handler, start)` may do so otherwise. `starts`: the offsets asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.answer: Callable[[BaseHTTPRequestHandler, int], None] = self.whole
        self.ranges = True
        self.starts: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and outer.ranges else 0
                outer.starts.append(start)
                outer.answer(self, start)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.zip"

    def head(self, handler: BaseHTTPRequestHandler, start: int) -> bytes:
        if start >= len(self.content):
            handler.send_error(416)
            return b""
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.end_headers()
        return self.content[start:]

    def whole(self, handler: BaseHTTPRequestHandler, start: int) -> None:
        handler.wfile.write(self.head(handler, start))

    def cut_after(self, count: int) -> Callable[[BaseHTTPRequestHandler, int], None]:
        return self.stall_after(count, 0)

    def stall_after(self, count: int, seconds: float) -> Callable[[BaseHTTPRequestHandler, int], None]:
        def answer(handler: BaseHTTPRequestHandler, start: int) -> None:
            handler.wfile.write(self.head(handler, start)[:count])
            handler.wfile.flush()
            time.sleep(seconds)

        return answer


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def fetch(server: Server, path: Path, md5: str = MD5, timeout: float = 5.0) -> None:
    download(server.url, md5, path, Progress(), timeout=timeout, wait=0.01)


def test_a_file_arrives_whole(server, tmp_path, capfd):
    fetch(server, tmp_path / "new/set.zip")
    assert (tmp_path / "new/set.zip").read_bytes() == CONTENT
    assert "downloading set.zip: 1,024,000 bytes" in capfd.readouterr().err
    assert not list(tmp_path.glob("new/*.partial"))


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.answer = server.cut_after(300_000)
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.starts == [0, 300_000, 600_000, 900_000]


def test_a_later_start_goes_on_where_the_last_one_ended(server, tmp_path):
    server.answer = lambda handler, start: None if start else server.cut_after(500_000)(handler, start)
    with pytest.raises(OSError, match="broke off after 500,000 bytes"):
        fetch(server, tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()
    server.answer, server.starts = server.whole, []
    fetch(server, tmp_path / "set.zip")
    assert server.starts == [500_000] and (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_starts_anew(server, tmp_path):
    (tmp_path / "set.zip.partial").write_bytes(CONTENT[:1000])
    server.ranges = False
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_what_had_come_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "set.zip.partial").write_bytes(CONTENT)
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT and server.starts == [len(CONTENT)]


def test_a_wrong_file_is_thrown_away(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(ValueError, match=r"dataset\.url=.*a wrong file came \(MD5"):
        fetch(server, tmp_path / "set.zip")
    assert not list(tmp_path.glob("*.zip*l"))  # neither the file nor a part of it
    server.content = CONTENT
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_slow_server_is_waited_for(server, tmp_path):
    def slowly(handler: BaseHTTPRequestHandler, start: int) -> None:
        body = server.head(handler, start)
        for at in range(0, len(body), 200_000):
            time.sleep(0.05)
            handler.wfile.write(body[at : at + 200_000])

    server.answer = slowly
    fetch(server, tmp_path / "set.zip", timeout=1)
    assert server.starts == [0] and (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_falls_silent_is_asked_again(server, tmp_path):
    server.answer = server.stall_after(700_000, 0.6)
    fetch(server, tmp_path / "set.zip", timeout=0.2)
    assert server.starts == [0, 700_000] and (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_stays_silent_is_given_up(server, tmp_path):
    server.answer = server.stall_after(0, 0.2)
    with pytest.raises(OSError, match=r"dataset\.url=.*broke off after 0 bytes") as caught:
        fetch(server, tmp_path / "set.zip", timeout=0.05)
    assert "\n" not in str(caught.value) and len(server.starts) == 5


def test_an_answer_of_not_found(server, tmp_path):
    server.answer = lambda handler, start: handler.send_error(404)
    with pytest.raises(OSError, match=r"dataset\.url=.*404 Not Found"):
        fetch(server, tmp_path / "set.zip")


def test_nobody_there(server, tmp_path):
    server.http.server_close()
    with pytest.raises(OSError, match=r"dataset\.url=.*is there a network"):
        fetch(server, tmp_path / "set.zip")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"dataset\.root=.*cannot be written \("):
        fetch(server, tmp_path / "file/set.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "tiny.zip"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match=r"dataset\.url="):
        download(url, MD5, tmp_path / "set.zip", Progress())


def test_tiny_imagenet_is_fetched_once(server, tmp_path):
    archive = zipped(tiny_imagenet_tree(tmp_path / "tree"), tmp_path / "t.zip", zipfile.ZIP_STORED)
    server.content = archive.read_bytes()
    md5 = hashlib.md5(server.content).hexdigest()
    root = tmp_path / "data/tiny-imagenet-200.zip"
    dataset = settings("tiny_imagenet", root=str(root), num_classes=4, download=True, url=server.url, md5=md5)
    for _ in range(2):
        assert arrays(dataset, tmp_path / "data").classes == IDS
    assert server.starts == [0]
