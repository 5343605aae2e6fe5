"""Downloads from a server on loopback that cuts the connection, sends a wrong file, or is slow."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server, serving

import mlp_sweep.data.download as downloading
from mlp_sweep.console import Progress
from mlp_sweep.data.download import download

CONTENT = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloading, "WAIT", 0.01)
    monkeypatch.setattr(downloading, "TIMEOUT", 5.0)
    with serving({"set.zip": CONTENT}) as made:
        yield made


def fetch(server: Server, path: Path) -> None:
    download(f"{server.url}/set.zip", MD5, path, Progress())


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
    server.files["set.zip"] = CONTENT[::-1]
    with pytest.raises(ValueError, match=r"dataset\.url: .*a wrong file came \(MD5"):
        fetch(server, tmp_path / "set.zip")
    assert not list(tmp_path.glob("*.zip*l"))  # neither the file nor a part of it
    server.files["set.zip"] = CONTENT
    fetch(server, tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_slow_server_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 1.0)
    server.answer = server.slowly(6, 0.05)
    fetch(server, tmp_path / "set.zip")
    assert server.starts == [0] and (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_falls_silent_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
    server.answer = server.stall_after(700_000, 0.6)
    fetch(server, tmp_path / "set.zip")
    assert server.starts == [0, 700_000] and (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_stays_silent_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.05)
    server.answer = server.stall_after(0, 0.2)
    with pytest.raises(OSError, match=r"dataset\.url: .*broke off after 0 bytes") as caught:
        fetch(server, tmp_path / "set.zip")
    assert "\n" not in str(caught.value) and len(server.starts) == 5


def test_an_answer_of_not_found(server, tmp_path):
    server.answer = lambda handler, start: handler.send_error(404)
    with pytest.raises(OSError, match=r"dataset\.url: .*404 Not Found"):
        fetch(server, tmp_path / "set.zip")


def test_nobody_there(server, tmp_path):
    server.http.server_close()
    with pytest.raises(OSError, match=r"dataset\.url: .*is there a network"):
        fetch(server, tmp_path / "set.zip")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"dataset\.root=.*cannot be written \("):
        fetch(server, tmp_path / "file/set.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "tiny.zip"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match=r"dataset\.url: "):
        download(url, MD5, tmp_path / "set.zip", Progress())
