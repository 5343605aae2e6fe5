"""Every set that may be fetched, from a server on loopback: whole, cut, wrong, slow or not there; and unpacked."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from loopback import Server, serving
from small_sets import arrays, picture_tree, settings, tiny_imagenet_tree, zipped
from test_sources_torchvision import cifar, fashion_mnist

import mlp_sweep.data.download as downloading
from mlp_sweep import config
from mlp_sweep.data.unpack import EXPANDS

KINDS = ["tiny_imagenet", "cifar10", "cifar100", "fashion_mnist", "imagenette"]


@dataclass
class Published:
    """A small set, as `prepared` from where it lies, and settings that fetch it into an empty root instead."""

    dataset: config.Pictures
    prepared: np.ndarray
    server: Server


def packed(tree: Path, archive: Path) -> bytes:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, tree.name)
    return archive.read_bytes()


@pytest.fixture(params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    monkeypatch.setattr(downloading, "WAIT", 0.01)
    kind, source = request.param, tmp_path / "source"
    there, root = source, tmp_path / "new/root"
    if kind == "tiny_imagenet":
        there = zipped(tiny_imagenet_tree(source / "tree"), source / "t.zip", zipfile.ZIP_STORED)
        root = root / "tiny-imagenet-200.zip"
        files = {"tiny-imagenet-200.zip": there.read_bytes()}
    elif kind == "imagenette":
        for split in ("train", "val"):
            picture_tree(source / "imagenette2-160" / split, ["n01440764", "n02102040"], 3, ending=".JPEG")
        files = {"imagenette2-160.tgz": packed(source / "imagenette2-160", tmp_path / "t.tgz")}
    elif kind == "fashion_mnist":
        fashion_mnist(source, True)
        files = {path.name: path.read_bytes() for path in source.iterdir()}
    else:
        cifar(source, monkeypatch, kind)
        [folder] = source.iterdir()
        name = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[kind]
        files = {name: packed(folder, tmp_path / "t.tgz")}
    prepared = np.array(arrays(settings(kind, root=str(there), num_classes=None), tmp_path / "there").train_x)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    with serving(files) as server:
        dataset = settings(kind, root=str(root), num_classes=None, download=True, url=server.url, md5=md5)
        assert isinstance(dataset, config.Pictures)
        yield Published(dataset, prepared, server)


def test_it_is_fetched_once(published, tmp_path, capfd):
    for _ in range(2):
        np.testing.assert_array_equal(arrays(published.dataset, tmp_path / "data").train_x, published.prepared)
    assert published.server.starts == [0] * len(published.server.files)
    assert capfd.readouterr().err.count("downloading ") == len(published.server.files)


def test_a_cut_connection_is_taken_up(published, tmp_path):
    part = max(map(len, published.server.files.values())) // 3
    published.server.answer = published.server.cut_after(part)
    np.testing.assert_array_equal(arrays(published.dataset, tmp_path / "data").train_x, published.prepared)
    assert {0, part, 2 * part} <= set(published.server.starts)


def test_a_wrong_file_is_thrown_away_and_leaves_no_set(published, tmp_path):
    whole = dict(published.server.files)
    published.server.files |= {name: content[::-1] for name, content in whole.items()}
    with pytest.raises(ValueError, match=r"^dataset\.url: http.*a wrong file came \(MD5") as caught:
        arrays(published.dataset, tmp_path / "data")
    assert "\n" not in str(caught.value)
    published.server.files |= whole
    np.testing.assert_array_equal(arrays(published.dataset, tmp_path / "data").train_x, published.prepared)


def test_a_slow_server_is_waited_for(published, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 1.0)
    published.server.answer = published.server.slowly(4, 0.02)
    np.testing.assert_array_equal(arrays(published.dataset, tmp_path / "data").train_x, published.prepared)
    assert set(published.server.starts) == {0}


def test_without_a_network_it_says_so(published, tmp_path):
    published.server.http.server_close()
    with pytest.raises(OSError, match=r"^dataset\.url: http.*is there a network\?$"):
        arrays(published.dataset, tmp_path / "data")


def test_the_addresses_are_those_that_torchvision_publishes():
    sets = torchvision.datasets
    for name, kind in (("cifar10", sets.CIFAR10), ("cifar100", sets.CIFAR100)):
        dataset = settings(name)
        assert isinstance(dataset, config.Pictures) and dataset.md5 == {kind.filename: kind.tgz_md5}
        assert f"{dataset.url}/{kind.filename}" == kind.url
    fashion, nette = settings("fashion_mnist"), settings("imagenette")
    assert isinstance(fashion, config.Pictures) and isinstance(nette, config.Pictures)
    assert fashion.md5 == dict(sets.FashionMNIST.resources) and f"{fashion.url}/" in sets.FashionMNIST.mirrors
    archives = {f"{nette.url}/{file}": digest for file, digest in nette.md5.items()}
    assert archives == dict(sets.Imagenette._ARCHIVES.values())


def imagenette(root: Path, archive: bytes) -> config.Dataset:
    """Settings by which this archive, which lies in root, is the published one."""
    root.mkdir()
    (root / "imagenette2-160.tgz").write_bytes(archive)
    md5 = {"imagenette2-160.tgz": hashlib.md5(archive).hexdigest()}
    return settings("imagenette", root=str(root), num_classes=None, md5=md5)


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def linked(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("imagenette2-160/train")
    info.type, info.linkname = kind, "/etc"
    return info


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (tarred((tarfile.TarInfo("../harm"), b"x" * 99)), "points out of the archive"),
        (tarred((tarfile.TarInfo("imagenette2-160/../../harm"), b"x" * 99)), "points out of the archive"),
        (tarred((tarfile.TarInfo("/harm"), b"x" * 99)), "points out of the archive"),
        (tarred((linked(tarfile.SYMTYPE), b"")), "is a link"),
        (tarred((linked(tarfile.LNKTYPE), b"")), "is a link"),
        (tarred((linked(tarfile.CHRTYPE), b"")), "is a link"),
        (tarred((tarfile.TarInfo("imagenette2-160/train/a/1.JPEG"), bytes(1 << 20))), f"more than {EXPANDS} times"),
        (tarred((tarfile.TarInfo("other/train/a/1.JPEG"), os.urandom(999))), "no imagenette2-160 in it"),
        (tarred((tarfile.TarInfo("imagenette2-160/1.JPEG"), os.urandom(99_999)))[:-30_000], "damaged"),
        (b"no archive at all", "damaged"),
    ],
    ids="above inside absolute symlink hardlink device bomb another cut none".split(),  # bytes would name them else
)
def test_a_hostile_or_damaged_archive_leaves_nothing(tmp_path, archive, said):
    (tmp_path / "a").mkdir()
    dataset = imagenette(tmp_path / "a/b", archive)
    with pytest.raises(ValueError, match=rf"^dataset\.root=.*imagenette2-160\.tgz: .*{said}") as caught:
        arrays(dataset, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("harm")) and not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "a/b/imagenette2-160").exists()


def test_an_archive_put_there_is_compared_with_the_published_one(tmp_path):
    dataset = imagenette(tmp_path / "root", b"some bytes")
    (tmp_path / "root/imagenette2-160.tgz").write_bytes(b"some byt")
    with pytest.raises(ValueError, match=r"^dataset\.root=.*another or not whole \(MD5"):
        arrays(dataset, tmp_path / "data")


UNPACKING = """
import os, signal, sys
from pathlib import Path
from small_sets import arrays, settings
from mlp_sweep import console

def deadly(self, total, advance, say):
    def advanced(count):
        seen.append(count)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    self.total, self.advance, self.say = total, advanced, say

seen = []
console.Bar.__init__ = deadly
arrays(settings("imagenette", root=sys.argv[1], md5={"imagenette2-160.tgz": sys.argv[2]}), Path(sys.argv[3]))
"""


def test_a_killed_unpacking_is_begun_anew(tmp_path):
    for split in ("train", "val"):
        picture_tree(tmp_path / "imagenette2-160" / split, ["n01440764", "n02102040"], 3, ending=".JPEG")
    dataset = imagenette(tmp_path / "root", packed(tmp_path / "imagenette2-160", tmp_path / "t.tgz"))
    assert isinstance(dataset, config.Pictures)
    command = [sys.executable, "-c", UNPACKING, dataset.root, *dataset.md5.values(), str(tmp_path / "data")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    half = tmp_path / "root/imagenette2-160.partial"
    assert half.is_dir() and len(list(half.rglob("*.JPEG"))) < 12
    made = arrays(dataset, tmp_path / "data")
    assert len(made.train_y) == len(made.val_y) == 6 and not half.exists()
