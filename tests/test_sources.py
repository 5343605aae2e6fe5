"""Sources: the same pictures whatever they are packed in, the classes asked for, and clear words for bad input."""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_run
from small_sets import IDS, NAMES, arrays, encoded, picture, picture_tree, settings, tiny_imagenet_tree, zipped

from mlp_sweep import config, console
from mlp_sweep.data.draws import draws
from mlp_sweep.data.sources import source
from mlp_sweep.data.subset import thin

REAL = os.environ.get("MLP_SWEEP_TINY_IMAGENET")


@pytest.fixture(scope="module")
def tiny_tree(tmp_path_factory):
    return tiny_imagenet_tree(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder_tree(tmp_path_factory):
    return picture_tree(tmp_path_factory.mktemp("folder"), ["ant", "bee", "cow"], 10)


def refused(dataset, data_dir, *words: str) -> None:
    """Loading says why not, in one line with these words."""
    with pytest.raises((ValueError, OSError), match=re.escape(words[0])) as caught:
        arrays(dataset, data_dir)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tiny_imagenet_is_the_same_from_archive_and_folder(tiny_tree, tmp_path, compression):
    archive = zipped(tiny_tree, tmp_path / "t.zip", compression)
    one = arrays(settings("tiny_imagenet", root=str(archive), num_classes=3), tmp_path / "a")
    two = arrays(settings("tiny_imagenet", root=str(tiny_tree), num_classes=3), tmp_path / "b")
    assert one.fingerprint == two.fingerprint
    assert one.classes == two.classes and one.names == two.names
    assert one.train_x.shape == (18, 3, 64, 64) and one.val_x.shape == (6, 3, 64, 64)
    np.testing.assert_array_equal(one.train_x, two.train_x)
    np.testing.assert_array_equal(one.val_y, two.val_y)


def test_tiny_imagenet_in_the_folder_that_unpacking_makes(tmp_path):
    tiny_imagenet_tree(tmp_path / "tiny-imagenet-200")
    made = arrays(settings("tiny_imagenet", root=str(tmp_path), num_classes=None), tmp_path / "data")
    assert made.classes == IDS and made.names == NAMES


def test_tiny_imagenet_reads_its_own_pictures(tiny_tree, tmp_path):
    made = arrays(settings("tiny_imagenet", root=str(tiny_tree), num_classes=None), tmp_path)
    for c in range(len(IDS)):
        for x_NCHW, y_N, first in ((made.train_x, made.train_y, 100 * c), (made.val_x, made.val_y, 9000 + 100 * c)):
            seen = x_NCHW[y_N == c][0].transpose(1, 2, 0).astype(float)
            assert np.abs(seen - np.asarray(picture(first), float)).mean() < 4  # but for what JPEG loses


def test_classes_are_drawn_by_data_seed(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), num_classes=2)
    drawn = [tuple(arrays(dataset, tmp_path, seed).classes) for seed in range(8)]
    assert len(set(drawn)) > 1
    assert drawn == [tuple(arrays(dataset, tmp_path / "again", seed).classes) for seed in range(8)]
    assert all(len(set(classes)) == 2 and set(classes) <= set(IDS) for classes in drawn)


def test_classes_by_id(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), classes=[IDS[3], IDS[1]])
    made = arrays(dataset, tmp_path)
    assert made.classes == [IDS[1], IDS[3]] and made.names == [NAMES[1], NAMES[3]]
    assert set(made.train_y) == {0, 1}


def test_samples_per_class_thins_training_alone(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), num_classes=4, samples_per_class=2)
    made = arrays(dataset, tmp_path)
    assert np.bincount(made.train_y).tolist() == [2] * 4 and np.bincount(made.val_y).tolist() == [2] * 4
    assert made.fingerprint != arrays(dataset, tmp_path, data_seed=1).fingerprint


def test_image_folder_split_is_stratified_and_of_data_seed(folder_tree, tmp_path):
    dataset = settings("image_folder", root=str(folder_tree), num_classes=None, val_fraction=0.3, image_size=16)
    made, other = arrays(dataset, tmp_path, 0), arrays(dataset, tmp_path, 1)
    assert np.bincount(made.val_y).tolist() == [3] * 3 and np.bincount(made.train_y).tolist() == [7] * 3
    assert made.classes == ["ant", "bee", "cow"]
    assert made.fingerprint != other.fingerprint
    rows = {x.tobytes() for x in made.train_x} | {x.tobytes() for x in made.val_x}
    assert len(rows) == 30  # every picture in one of the two splits, none in both


@pytest.mark.parametrize("beside", [True, False])
def test_image_folder_with_a_val_tree(tmp_path, beside):
    picture_tree(tmp_path / "train", ["ant", "bee"], 3)
    val = picture_tree(tmp_path / ("val" if beside else "elsewhere"), ["ant", "bee"], 2)
    root, val_root = (tmp_path, None) if beside else (tmp_path / "train", str(val))
    dataset = settings("image_folder", root=str(root), val_root=val_root, num_classes=2, image_size=8)
    made = arrays(dataset, tmp_path / "data")
    assert np.bincount(made.train_y).tolist() == [3, 3] and np.bincount(made.val_y).tolist() == [2, 2]


def test_a_picture_added_is_noticed(tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 3)
    dataset = settings("image_folder", root=str(tree), num_classes=2, image_size=8)
    before = arrays(dataset, tmp_path / "data")
    (tree / "ant/more.png").write_bytes(encoded(picture(77), "PNG"))
    after = arrays(dataset, tmp_path / "data")
    assert len(after.train_y) + len(after.val_y) == len(before.train_y) + len(before.val_y) + 1


@pytest.mark.parametrize("group", ["tiny_imagenet", "image_folder"])
def test_a_missing_root(tmp_path, group):
    refused(settings(group, root=str(tmp_path / "no")), tmp_path / "data", "dataset.root", str(tmp_path / "no"))


@pytest.mark.parametrize("group", ["tiny_imagenet", "image_folder"])
def test_an_empty_root(tmp_path, group):
    (tmp_path / "empty").mkdir()
    refused(settings(group, root=str(tmp_path / "empty")), tmp_path / "data", "dataset.root", str(tmp_path / "empty"))


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b"PK\5\6" + b"\xff" * 18])
def test_an_archive_that_is_not_one(tmp_path, content):
    (tmp_path / "t.zip").write_bytes(content)
    refused(settings("tiny_imagenet", root=str(tmp_path / "t.zip")), tmp_path / "data", "dataset.root", "archive")


def test_an_archive_cut_short(tiny_tree, tmp_path):
    archive = zipped(tiny_tree, tmp_path / "t.zip", zipfile.ZIP_STORED)
    os.truncate(archive, archive.stat().st_size // 2)
    refused(settings("tiny_imagenet", root=str(archive)), tmp_path / "data", "dataset.root", "archive")


def test_another_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        file.writestr("hello.txt", "hello")
    refused(settings("tiny_imagenet", root=str(tmp_path / "t.zip")), tmp_path / "data", "dataset.root", "wnids.txt")


def test_fewer_classes_than_asked_for(tiny_tree, folder_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree))  # C = 72
    refused(dataset, tmp_path, "dataset.num_classes=72", "has 4 classes", "dataset.num_classes=4")
    dataset = settings("image_folder", root=str(folder_tree), num_classes=4)
    refused(dataset, tmp_path, "dataset.num_classes=4", "has 3 classes")


def test_unknown_classes_are_listed(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), classes=[IDS[0], "n00000001", "n00000000"])
    refused(dataset, tmp_path, "dataset.classes", "n00000000, n00000001", "its 4 are", "n02123045 (tabby, tabby cat)")


def test_a_class_named_twice_is_refused(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), classes=[IDS[0], "goldfish", IDS[1]])
    refused(dataset, tmp_path, "dataset.classes", f"{IDS[0]} and goldfish are one class")


def test_a_class_without_a_picture(folder_tree, tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 2)
    (tree / "cow").mkdir()
    (tree / "cow/notes.txt").write_text("moo")
    dataset = settings("image_folder", root=str(tree), num_classes=3)
    refused(dataset, tmp_path / "data", "dataset.root", str(tree / "cow"), "no picture")


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    tree = picture_tree(tmp_path / "set", ["ant", "bee"], 1)
    refused(settings("image_folder", root=str(tree), num_classes=2), tmp_path / "data", "dataset.root", "one picture")


@pytest.mark.skipif(not REAL, reason="MLP_SWEEP_TINY_IMAGENET does not name the archive")
def test_the_real_archive(tmp_path):
    """With the classes of the preset, whatever others it has."""
    made = arrays(make_run("experiment=assignment", f"dataset.root={REAL}").dataset, tmp_path)
    assert made.train_x.shape == (36_000, 3, 64, 64) and made.val_x.shape == (3_600, 3, 64, 64)
    assert set(np.bincount(made.train_y)) == {500} and set(np.bincount(made.val_y)) == {50}
    assert made.names[0] == "goldfish, Carassius auratus" and not made.skipped
    np.testing.assert_allclose(made.mean_C, [120.375, 114.520, 98.319], atol=0.05)
    two = arrays(settings("tiny_imagenet", root=str(REAL), classes=["goldfish", "n02123045"]), tmp_path)
    assert two.classes == ["n01443537", "n02123045"]
    goldfish = np.flatnonzero(made.train_y == 0)
    np.testing.assert_array_equal(two.train_x[two.train_y == 0], made.train_x[goldfish])


def test_classes_by_name(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), classes=["Goldfish", "tabby, tabby cat"])
    assert arrays(dataset, tmp_path).classes == [IDS[0], IDS[2]]


def test_more_samples_than_a_class_has(tiny_tree, tmp_path):
    dataset = settings("tiny_imagenet", root=str(tiny_tree), num_classes=2, samples_per_class=7)
    refused(dataset, tmp_path, "dataset.samples_per_class=7", "has 6 training pictures")


def edited(tree: Path, name: str, change: Callable[[list[str]], list[str]]) -> config.Dataset:
    """Settings of the tree with one of its files of lines changed."""
    path = tree / name
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    return settings("tiny_imagenet", root=str(tree), num_classes=None)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("wnids.txt", lambda lines: [*lines, IDS[0]], f"wnids.txt lists {IDS[0]} 2 times"),
        ("val/val_annotations.txt", lambda lines: lines + lines[:1], "val_annotations.txt lists val_0.JPEG 2 times"),
        (
            "val/val_annotations.txt",
            lambda lines: [*lines, f"val_0.JPEG\t{IDS[2]}"],
            "val_annotations.txt lists val_0.JPEG 2 times",
        ),
        ("val/val_annotations.txt", lambda lines: [*lines, "val_9.JPEG"], "the line 'val_9.JPEG', without a class"),
        ("val/val_annotations.txt", lambda lines: [*lines, f"val_9.JPEG\t{IDS[0]}"], "no val/images/val_9.JPEG in it"),
        ("val/val_annotations.txt", lambda lines: lines[:6], f"no validation picture of class {IDS[3]}"),
    ],
)
def test_lists_that_do_not_fit_the_pictures_are_refused(tmp_path, name, change, said):
    dataset = edited(tiny_imagenet_tree(tmp_path / "set"), name, change)
    refused(dataset, tmp_path / "data", "dataset.root", said)


def test_blank_lines_and_a_byte_order_mark_in_lists_say_nothing(tmp_path):
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        edited(tiny_imagenet_tree(tmp_path / name), name, lambda lines: [f"\ufeff{lines[0]}", "", *lines[1:], " "])
        made = arrays(settings("tiny_imagenet", root=str(tmp_path / name), num_classes=None), tmp_path / "data")
        assert made.classes == IDS and made.names == NAMES and np.bincount(made.val_y).tolist() == [2] * 4


def without_rows(tree: Path) -> config.Dataset:
    return edited(tree, "val/val_annotations.txt", lambda lines: lines[1:])


def of_fewer_classes(tree: Path) -> config.Dataset:
    return edited(tree, "wnids.txt", lambda lines: [line for line in lines if line != IDS[1]])


@pytest.mark.parametrize(("change", "said"), [(without_rows, "1 of 8"), (of_fewer_classes, "2 of 8")])
@pytest.mark.parametrize("packed", [False, True])
def test_validation_pictures_without_a_class_are_counted(tmp_path, capfd, change, said, packed):
    tree = tiny_imagenet_tree(tmp_path / "set")
    dataset = change(tree)
    if packed:
        dataset = settings("tiny_imagenet", root=str(zipped(tree, tmp_path / "t.zip", 0)), num_classes=None)
    made = arrays(dataset, tmp_path / "data")
    assert len(made.val_y) == 8 - int(said[0])
    assert f"{said} validation pictures are left out" in " ".join(capfd.readouterr().err.split())


def test_chosen_classes_leave_no_picture_without_one(tiny_tree, tmp_path, capfd):
    arrays(settings("tiny_imagenet", root=str(tiny_tree), classes=IDS[:2]), tmp_path)
    assert "left out" not in capfd.readouterr().err


def test_validation_folders_without_a_training_folder_are_counted(tmp_path, capfd):
    picture_tree(tmp_path / "train", ["ant", "bee"], 2, size=8)
    picture_tree(tmp_path / "val", ["ant", "bee", "cow"], 2, size=8)
    made = arrays(settings("image_folder", root=str(tmp_path), num_classes=None), tmp_path / "data")
    assert made.classes == ["ant", "bee"]
    said = " ".join(capfd.readouterr().err.split())
    assert "1 class folders are left out" in said and "cow" in said


def thinned(count: int, label: int, of: int = 40, data_seed: int = 0) -> list[str]:
    dataset = settings("image_folder", samples_per_class=count)
    assert isinstance(dataset, config.Pictures)
    return thin([f"{i:02}" for i in range(of)], dataset, data_seed, label)


def test_every_class_has_a_draw_of_its_own():
    drawn = [tuple(thinned(10, label)) for label in range(20)]
    assert len(set(drawn)) == 20
    assert all(len(set(chosen)) == 10 and list(chosen) == sorted(chosen) for chosen in drawn)
    assert drawn == [tuple(thinned(10, label)) for label in range(20)]
    assert drawn[3] == tuple(f"{i:02}" for i in sorted(draws(0, 1, 3).choice(40, 10, replace=False)))
    assert len({tuple(thinned(10, 0, data_seed=seed)) for seed in range(20)}) == 20


def test_samples_per_class_on_both_sides_of_all():
    assert thinned(40, 0) == [f"{i:02}" for i in range(40)]
    assert len(thinned(39, 0)) == 39
    with pytest.raises(ValueError, match=r"dataset\.samples_per_class=41"):
        thinned(41, 0)


def held_out(tmp_path: Path, per_class: int, fraction: float, classes: int = 2) -> list[set[str]]:
    """The names of each class's validation pictures; files without a picture in them, since only names count."""
    root = tmp_path / f"{per_class}-{fraction}"
    for label in range(classes):
        (root / f"class {label}").mkdir(parents=True)
        for i in range(per_class):
            (root / f"class {label}" / f"{i:03}.png").touch()
    dataset = settings("image_folder", root=str(root), val_fraction=fraction, num_classes=None)
    assert isinstance(dataset, config.Pictures)
    listing = source(dataset, 0, console.Progress()).listing()
    names = [{Path(name).name for name, of in listing.val if of == label} for label in range(classes)]
    train = [{Path(name).name for name, of in listing.train if of == label} for label in range(classes)]
    for there, rest in zip(names, train, strict=True):
        assert not there & rest and len(there | rest) == per_class
    return names


@pytest.mark.parametrize(
    ("per_class", "fraction", "expected"),
    [(14, 0.1, 1), (16, 0.1, 2), (24, 0.1, 2), (26, 0.1, 3), (10, 0.34, 3), (10, 0.36, 4), (7, 0.5, 4)]
    + [(2, 0.01, 1), (3, 0.1, 1), (2, 0.99, 1), (3, 0.99, 2)],  # at least one picture on each side
)
def test_the_validation_share_is_rounded_to_the_nearest(tmp_path, per_class, fraction, expected):
    assert [len(names) for names in held_out(tmp_path, per_class, fraction)] == [expected, expected]


def test_every_class_is_split_by_a_draw_of_its_own(tmp_path):
    names = held_out(tmp_path, 30, 0.3, classes=12)
    assert len({frozenset(of_class) for of_class in names}) == 12


def test_draws_of_different_keys_differ():
    """But for zeros at the end, as its docstring says; no two draws of one set depend on that."""
    keys = [(seed, kind, label) for seed in range(4) for kind in range(4) for label in range(1, 5)]
    assert len({draws(*key).bytes(16) for key in keys}) == len(keys)
    assert draws(3, 1).bytes(16) == draws(3, 1, 0).bytes(16) == draws(3, 1, 0, 0).bytes(16)
    assert draws(5 + 2**32, 7).bytes(16) == draws(5, 1, 7).bytes(16)
