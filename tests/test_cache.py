"""The cache: prepared once, whole or not there, and plain NumPy files."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_sets import arrays, picture_tree, settings


@pytest.fixture
def dataset(tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 4, size=12)
    return settings("image_folder", root=str(tree), num_classes=2, image_size=12)


def folders(data_dir: Path) -> list[Path]:
    return sorted(p for p in (data_dir / "cache").iterdir() if p.name.startswith("image_folder-"))


def flip(path: Path) -> None:
    """Changes the last byte but 20."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def test_mean_and_deviation_are_those_of_the_training_pictures(dataset, tmp_path):
    made = arrays(dataset, tmp_path / "data")
    x_NCHW = np.array(made.train_x, np.float64)
    np.testing.assert_allclose(made.mean_C, x_NCHW.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(made.std_C, x_NCHW.std((0, 2, 3)), rtol=1e-9)


def test_anyone_can_open_it(dataset, tmp_path):
    made = arrays(dataset, tmp_path / "data")
    [folder] = folders(tmp_path / "data")
    np.testing.assert_array_equal(np.load(folder / "train_x.npy"), made.train_x)
    np.testing.assert_array_equal(np.load(folder / "val_y.npy"), made.val_y)
    assert json.loads((folder / "record.json").read_text())["classes"] == ["ant", "bee"]


def test_a_second_load_decodes_nothing(dataset, tmp_path, monkeypatch):
    first = arrays(dataset, tmp_path / "data")
    monkeypatch.setattr("mlp_sweep.data.decode.decode", None)
    again = arrays(dataset, tmp_path / "data")
    np.testing.assert_array_equal(first.train_x, again.train_x)
    assert first.fingerprint == again.fingerprint


def test_writing_into_the_arrays_leaves_the_cache_alone(dataset, tmp_path):
    made = arrays(dataset, tmp_path / "data")
    before = made.train_x.copy()
    made.train_x[:] = 0
    np.testing.assert_array_equal(arrays(dataset, tmp_path / "data").train_x, before)


def harm_record(folder: Path) -> None:
    (folder / "record.json").write_text("{")


def harm_format(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"format": 0}))


def harm_foreign(folder: Path) -> None:
    (folder / "record.json").write_text('["another program\'s"]')


def harm_pictures(folder: Path) -> None:
    os.truncate(folder / "train_x.npy", (folder / "train_x.npy").stat().st_size - 1)


def harm_labels(folder: Path) -> None:
    flip(folder / "val_y.npy")


def harm_pointer(folder: Path) -> None:
    for pointer in (folder.parent / "requests").iterdir():
        pointer.write_bytes(b"\xff\0/../..")


@pytest.mark.parametrize(
    "harm",
    [harm_record, harm_format, harm_foreign, harm_pictures, harm_labels, harm_pointer, shutil.rmtree]
    + [lambda folder: (folder / "record.json").unlink(), lambda folder: (folder / "train_y.npy").unlink()],
)
def test_a_damaged_or_foreign_cache_is_made_anew(dataset, tmp_path, harm):
    whole = arrays(dataset, tmp_path / "data").fingerprint
    [folder] = folders(tmp_path / "data")
    harm(folder)
    made = arrays(dataset, tmp_path / "data")
    assert made.fingerprint == whole and len(made.train_x) == 6 and made.train_y.tolist() == [0, 0, 0, 1, 1, 1]
    assert folders(tmp_path / "data") == [folder]


def test_a_changed_pixel_is_found(dataset, tmp_path):
    before = np.array(arrays(dataset, tmp_path / "data").train_x)
    [folder] = folders(tmp_path / "data")
    flip(folder / "train_x.npy")
    np.testing.assert_array_equal(arrays(dataset, tmp_path / "data").train_x, before)


def test_of_a_set_larger_than_memory_a_changed_pixel_is_found_by_verify(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_sweep.data.cache.fits", lambda *_: False)
    before = np.array(arrays(dataset, tmp_path / "data").train_x)
    [folder] = folders(tmp_path / "data")
    flip(folder / "train_x.npy")
    assert (arrays(dataset, tmp_path / "data").train_x != before).sum() == 1
    verified = dataclasses.replace(dataset, verify=True)
    np.testing.assert_array_equal(arrays(verified, tmp_path / "data").train_x, before)


def test_requests_that_choose_the_same_share_one_folder(tmp_path):
    picture_tree(tmp_path / "set/train", ["ant", "bee"], 2)
    picture_tree(tmp_path / "set/val", ["ant", "bee"], 2)
    dataset = settings("image_folder", root=str(tmp_path / "set"), num_classes=2, image_size=8)
    for data_seed in (0, 1):
        arrays(dataset, tmp_path / "data", data_seed)
    assert len(folders(tmp_path / "data")) == 1


LOADING = """
import os, signal, sys
from small_sets import arrays, settings
from mlp_sweep import console
from pathlib import Path

after = int(sys.argv[3])  # pictures; 0: never
bar = console.Bar.__init__

def deadly(self, total, advance, say):
    def advanced(count):
        advance(count)
        deadly.done += count
        if after and deadly.done >= after:
            os.kill(os.getpid(), signal.SIGKILL)
    bar(self, total, advanced, say)

deadly.done = 0
console.Bar.__init__ = deadly
print(arrays(settings("image_folder", root=sys.argv[1], num_classes=2, image_size=12), Path(sys.argv[2])).fingerprint)
"""


def loading(root: str, data_dir: Path, kill_after: int = 0) -> subprocess.Popen[str]:
    """A process that loads the set, or dies by kill -9 after some pictures."""
    command = [sys.executable, "-c", LOADING, root, str(data_dir), str(kill_after)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_two_processes_do_the_work_once(dataset, tmp_path):
    both = [loading(dataset.root, tmp_path / "data") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert len({out for out, _ in said}) == 1 and said[0][0].strip()
    assert sum("preparing pictures" in err for _, err in said) == 1


def test_a_killed_preparation_leaves_nothing_half_made(dataset, tmp_path):
    dying = loading(dataset.root, tmp_path / "data", kill_after=7)
    dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL
    [partial] = folders(tmp_path / "data")
    assert partial.name.endswith(".partial")
    made = arrays(dataset, tmp_path / "data")
    assert folders(tmp_path / "data") == [made.folder] and made.folder != partial
    assert made.fingerprint == arrays(dataset, tmp_path / "elsewhere").fingerprint


def test_a_data_dir_that_cannot_be(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^data_dir=.*file: pictures cannot be kept there \(Not a directory\)$"):
        arrays(dataset, tmp_path / "file")


def test_a_disk_that_takes_no_more(dataset, tmp_path):
    """As a quota does it: every file may have 2 kB, the record and the arrays are larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^data_dir=.*: pictures cannot be kept there \("):
            arrays(dataset, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not folders(tmp_path / "data")
    assert len(arrays(dataset, tmp_path / "data").train_x) == 6


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB, where we may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_is_noticed_before_the_work(dataset, small_disk):
    large = dataclasses.replace(dataset, image_size=200)
    with pytest.raises(OSError, match=r"^data_dir=.*: the pictures take 1\.0 MB, and 0\.1 MB are free$"):
        arrays(large, small_disk)
    assert not folders(small_disk)


def test_a_full_disk_is_one_clear_line(dataset, small_disk):
    (small_disk / "rest").write_bytes(bytes(50_000))
    large = dataclasses.replace(dataset, image_size=16)  # 6 kB of pixels: room for the estimate, not for the folder
    (small_disk / "more").write_bytes(bytes(4096))
    with pytest.raises(OSError, match=r"^data_dir=.*: pictures cannot be kept there \(No space left on device\)$"):
        arrays(large, small_disk)
    (small_disk / "rest").unlink()
    assert len(arrays(large, small_disk).train_x) == 6


def test_a_read_only_disk_serves_what_it_holds(dataset, small_disk):
    prepared = arrays(dataset, small_disk).fingerprint
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert arrays(dataset, small_disk).fingerprint == prepared
    other = dataclasses.replace(dataset, image_size=5)
    with pytest.raises(OSError, match=r"^data_dir=.*: pictures cannot be kept there \(Read-only file system\)$"):
        arrays(other, small_disk)
