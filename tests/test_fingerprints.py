"""A source's fingerprint changes with every file that decides a number or a name, so the cache is never out of date."""

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from small_sets import IDS, NAMES, arrays, encoded, picture, picture_tree, settings, tiny_imagenet_tree, zipped
from test_sources_torchvision import cifar, fashion_mnist

from mlp_sweep import config, console
from mlp_sweep.data.sources import source

NAMES_FILES = ["LOC_synset_mapping.txt", "words.txt", "synset_words.txt"]


def tiny_imagenet(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    tiny_imagenet_tree(root, per_class=2, val_per_class=1)
    return settings("tiny_imagenet", root=str(root), num_classes=None)


def image_folder(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    picture_tree(root, ["ant", "bee"], 3, size=8)
    return settings("image_folder", root=str(root), num_classes=None)


def image_folder_with_val(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    picture_tree(root / "train", ["ant", "bee"], 2, size=8)
    picture_tree(root / "val", ["ant", "bee"], 1, size=8)
    (root / "words.txt").write_text("ant\tgarden ant\n")
    return settings("image_folder", root=str(root), num_classes=None)


def image_folder_with_val_root(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    picture_tree(root / "a", ["ant", "bee"], 2, size=8)
    picture_tree(root / "b", ["ant", "bee"], 1, size=8)
    return settings("image_folder", root=str(root / "a"), val_root=str(root / "b"), num_classes=None)


def imagenet(root: Path, _: pytest.MonkeyPatch, names_file: str = NAMES_FILES[0]) -> config.Dataset:
    for split in ("train", "val"):
        picture_tree(root / split, IDS, 2, size=8, ending=".JPEG")
    (root / names_file).write_text("".join(f"{key} {name}\n" for key, name in zip(IDS, NAMES, strict=True)))
    return settings("imagenet", root=str(root), num_classes=None)


def imagenet_words(root: Path, patch: pytest.MonkeyPatch) -> config.Dataset:
    return imagenet(root, patch, NAMES_FILES[1])


def imagenet_synset_words(root: Path, patch: pytest.MonkeyPatch) -> config.Dataset:
    return imagenet(root, patch, NAMES_FILES[2])


def imagenette(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    for split in ("train", "val"):
        picture_tree(root / "imagenette2-160" / split, ["n01440764", "n02102040"], 2, size=8, ending=".JPEG")
    return settings("imagenette", root=str(root), num_classes=None)


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> config.Dataset:
    cifar(root, patch, "cifar10")
    return settings("cifar10", root=str(root))


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> config.Dataset:
    cifar(root, patch, "cifar100")
    return settings("cifar100", root=str(root))


def fashion(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    fashion_mnist(root, packed=False)
    return settings("fashion_mnist", root=str(root))


def fashion_packed(root: Path, _: pytest.MonkeyPatch) -> config.Dataset:
    fashion_mnist(root, packed=True)
    return settings("fashion_mnist", root=str(root))


SETS: list[Callable[[Path, pytest.MonkeyPatch], config.Dataset]] = [
    tiny_imagenet, image_folder, image_folder_with_val, image_folder_with_val_root, imagenet, imagenet_words,
    imagenet_synset_words, imagenette, cifar10, cifar100, fashion, fashion_packed,
]  # fmt: skip


def fingerprint(dataset: config.Dataset) -> str:
    assert isinstance(dataset, config.Pictures)
    return source(dataset, 0, console.Progress()).fingerprint


def deciding(root: Path) -> list[Path]:
    """Every file but the bounding boxes, which nothing reads."""
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.name.endswith("_boxes.txt"))


@pytest.mark.parametrize("make", SETS)
def test_every_file_that_decides_something_is_in_the_fingerprint(make, tmp_path, monkeypatch):
    dataset = make(tmp_path / "set", monkeypatch)
    before = fingerprint(dataset)
    files = deciding(tmp_path / "set")
    assert len(files) >= 4
    unnoticed = []
    for path in files:
        content, stat = path.read_bytes(), path.stat()

        def written(content: bytes, mtime_ns: int, path: Path = path) -> str:
            path.write_bytes(content)
            os.utime(path, ns=(mtime_ns, mtime_ns))
            return fingerprint(dataset)

        same_size = written(bytes([content[0] ^ 1]) + content[1:], stat.st_mtime_ns + 1)
        other_size = written(content + b"\n#", stat.st_mtime_ns)
        restored = written(content, stat.st_mtime_ns)
        if before in (same_size, other_size) or restored != before:
            unnoticed.append(str(path.relative_to(tmp_path)))
    assert not unnoticed


@pytest.mark.parametrize("make", SETS[:7])
def test_a_picture_that_comes_or_goes_is_noticed_in_every_class_folder(make, tmp_path, monkeypatch):
    dataset = make(tmp_path / "set", monkeypatch)
    before = fingerprint(dataset)
    folders = sorted({p.parent for p in deciding(tmp_path / "set") if p.suffix.lower() in (".jpg", ".jpeg")})
    for folder in folders:
        more = folder / "zz.JPEG"
        more.write_bytes(encoded(picture(7, 8, 8)))
        assert fingerprint(dataset) != before, folder
        more.unlink()
        assert fingerprint(dataset) == before


@pytest.mark.parametrize("make", [tiny_imagenet, image_folder, imagenet])
def test_a_picture_moved_to_another_class_is_noticed(make, tmp_path, monkeypatch):
    dataset = make(tmp_path / "set", monkeypatch)
    before = fingerprint(dataset)
    pictures = [p for p in deciding(tmp_path / "set") if p.suffix.lower() in (".jpg", ".jpeg") and "val" not in p.parts]
    last_of_first_class = [p for p in pictures if p.parent == pictures[0].parent][-1]
    other = next(p.parent for p in pictures if p.parent != last_of_first_class.parent)
    last_of_first_class.rename(other / f"0{last_of_first_class.name}")
    moved = fingerprint(dataset)
    (other / f"0{last_of_first_class.name}").rename(last_of_first_class)
    assert moved != before == fingerprint(dataset)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_of_the_archive_is_in_its_fingerprint(tmp_path, compression):
    tree = tiny_imagenet_tree(tmp_path / "tree", per_class=2, val_per_class=1)
    dataset = settings("tiny_imagenet", root=str(tmp_path / "t.zip"), num_classes=None)

    def packed() -> str:
        zipped(tree, tmp_path / "t.zip", compression)
        return fingerprint(dataset)

    before = packed()
    for path in deciding(tree):
        content, stat = path.read_bytes(), path.stat()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))  # the checksum tells them apart
        assert packed() != before, path
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert packed() == before


def test_a_file_of_names_that_comes_or_goes_is_noticed(tmp_path, monkeypatch):
    dataset = image_folder(tmp_path / "set", monkeypatch)
    seen = [fingerprint(dataset)]
    for name in reversed(NAMES_FILES):  # the one that is looked for first comes last
        (tmp_path / "set" / name).write_text("ant garden ant\n")
        seen.append(fingerprint(dataset))
    assert seen[0] not in seen[1:]


def test_changed_validation_pictures_and_names_reach_the_arrays(tmp_path, monkeypatch):
    dataset = tiny_imagenet(tmp_path / "set", monkeypatch)
    first = arrays(dataset, tmp_path / "data")
    (tmp_path / "set/val/images/val_0.JPEG").write_bytes(encoded(picture(77)))
    second = arrays(dataset, tmp_path / "data")
    assert (first.val_x[0] != second.val_x[0]).any() and (first.val_x[1:] == second.val_x[1:]).all()
    words = tmp_path / "set/words.txt"
    words.write_text(words.read_text().replace("goldfish", "gold fish"))
    third = arrays(dataset, tmp_path / "data")
    assert third.names[0] == "gold fish, Carassius auratus" and third.fingerprint == second.fingerprint


def test_plain_files_beside_packed_ones_are_read_instead_and_that_is_noticed(tmp_path):
    root = tmp_path / "set"
    fashion_mnist(root, packed=True)
    dataset = settings("fashion_mnist", root=str(root))
    before = fingerprint(dataset)
    for path in list(root.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    assert fingerprint(dataset) != before
