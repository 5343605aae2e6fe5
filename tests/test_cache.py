"""The cache: prepared once, whole or not there, and plain NumPy files."""

import json
import shutil

import numpy as np
import pytest
from small_sets import arrays, picture_tree, settings


@pytest.fixture
def dataset(tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 4, size=12)
    return settings("image_folder", root=str(tree), num_classes=2, image_size=12)


def folders(data_dir):
    return [p for p in (data_dir / "cache").iterdir() if p.name.startswith("image_folder-")]


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


@pytest.mark.parametrize("harm", ["record", "short", "gone", "file"])
def test_a_half_made_cache_is_made_anew(dataset, tmp_path, harm):
    whole = arrays(dataset, tmp_path / "data").fingerprint
    [folder] = folders(tmp_path / "data")
    if harm == "record":
        (folder / "record.json").unlink()
    elif harm == "short":
        (folder / "train_x.npy").write_bytes((folder / "train_x.npy").read_bytes()[:-1])
    elif harm == "gone":
        (folder / "val_y.npy").unlink()
    else:
        shutil.rmtree(folder)
    made = arrays(dataset, tmp_path / "data")
    assert made.fingerprint == whole and len(made.train_x) == 6
    assert folders(tmp_path / "data") == [folder]


def test_requests_that_choose_the_same_share_one_folder(tmp_path):
    picture_tree(tmp_path / "set/train", ["ant", "bee"], 2)
    picture_tree(tmp_path / "set/val", ["ant", "bee"], 2)
    dataset = settings("image_folder", root=str(tmp_path / "set"), num_classes=2, image_size=8)
    for data_seed in (0, 1):
        arrays(dataset, tmp_path / "data", data_seed)
    assert len(folders(tmp_path / "data")) == 1
