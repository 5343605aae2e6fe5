"""The sets that torchvision reads, made small in their own formats; a published checksum is set to the small file's."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from scipy.io import savemat
from small_sets import arrays, encoded, picture, picture_tree, settings
from torchvision.datasets.imagenet import ARCHIVE_META

from mlp_sweep.data.in_memory import FASHION_MNIST

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> np.ndarray:
    """root/<folder>/ with six pickled batches of 20 pictures; returns the training pictures, HWC."""
    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    classes, key = (10, "labels") if name == "cifar10" else (100, "fine_labels")
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    seen = []

    def written(file: str, content: dict) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    def batch(file: str) -> list[str]:
        data = rng.randint(0, 256, (2 * classes, 3072), dtype=np.uint8)
        seen.append(data)
        return written(file, {"data": data, key: [i % classes for i in range(2 * classes)]})

    meta = {"cifar10": ("batches.meta", "label_names"), "cifar100": ("meta", "fine_label_names")}[name]
    file, digest = written(meta[0], {meta[1]: [f"kind {i:02}" for i in range(classes)]})
    monkeypatch.setattr(kind, "meta", {"filename": file, "key": meta[1], "md5": digest})
    monkeypatch.setattr(kind, "train_list", [batch("data_batch_1"), batch("data_batch_2")])
    monkeypatch.setattr(kind, "test_list", [batch("test_batch")])
    return np.concatenate(seen[:2]).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(tmp_path, monkeypatch, name, classes):
    pixels = cifar(tmp_path / "set", monkeypatch, name)
    made = arrays(settings(name, root=str(tmp_path / "set"), num_classes=None), tmp_path / "data")
    assert made.train_x.shape == (4 * classes, 3, 32, 32) and made.val_x.shape == (2 * classes, 3, 32, 32)
    assert made.names[1] == "kind 01"
    of_class = np.arange(4 * classes) % classes == 1
    np.testing.assert_array_equal(made.train_x[made.train_y == 1], pixels[of_class])


def test_a_foreign_cifar_is_not_unpickled(tmp_path, monkeypatch):
    cifar(tmp_path / "set", monkeypatch, "cifar10")

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "set/cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"dataset\.root=.*damaged"):
        arrays(settings("cifar10", root=str(tmp_path / "set")), tmp_path / "data")
    assert not (tmp_path / "harm").exists()


def fashion_mnist(root: Path, packed: bool) -> np.ndarray:
    """The four files with 40 and 20 pictures; returns the training pictures."""
    root.mkdir(parents=True)
    rng = np.random.RandomState(0)
    seen = []
    for count, names in ((40, FASHION_MNIST[:2]), (20, FASHION_MNIST[2:])):
        pixels = rng.randint(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        seen.append(pixels)
        contents = (struct.pack(">4I", 2051, count, 28, 28) + pixels.tobytes(), struct.pack(">2I", 2049, count))
        for name, data in zip(names, (contents[0], contents[1] + labels.tobytes()), strict=True):
            (root / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)
    return seen[0]


@pytest.mark.parametrize(("folder", "packed"), [("", True), ("", False), ("FashionMNIST/raw", False)])
def test_fashion_mnist(tmp_path, folder, packed):
    pixels = fashion_mnist(tmp_path / "set" / folder, packed)
    made = arrays(settings("fashion_mnist", root=str(tmp_path / "set")), tmp_path / "data")
    assert made.train_x.shape == (40, 1, 28, 28) and made.val_x.shape == (20, 1, 28, 28)
    sneakers = made.names.index("Sneaker")
    np.testing.assert_array_equal(made.train_x[made.train_y == sneakers][:, 0], pixels[7::10])


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_packs_it(tmp_path):
    dataset = settings("fashion_mnist", root=str(FASHION), samples_per_class=10, classes=["Bag", "Coat", "Dress"])
    made = arrays(dataset, tmp_path)
    assert made.train_x.shape == (30, 1, 28, 28) and made.val_x.shape == (3000, 1, 28, 28)
    assert made.classes == ["Bag", "Coat", "Dress"]


def test_a_damaged_fashion_mnist(tmp_path):
    fashion_mnist(tmp_path / "set", True)
    path = tmp_path / "set" / f"{FASHION_MNIST[0]}.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"dataset\.root=.*damaged"):
        arrays(settings("fashion_mnist", root=str(tmp_path / "set")), tmp_path / "data")


def idx(*shape: int, kind: int = 8, data: bytes | None = None) -> bytes:
    """An IDX file of zeros, or of other data than its header says."""
    header = bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return header + (bytes(np.prod(shape)) if data is None else data)


TRAIN_X, TRAIN_Y, VAL_X, VAL_Y = FASHION_MNIST
DAMAGED_IDX = {
    "more labels": (TRAIN_Y, idx(41), f"{TRAIN_Y} has 41 labels for the 40 pictures of {TRAIN_X}"),
    "fewer labels": (TRAIN_Y, idx(39), f"{TRAIN_Y} has 39 labels for the 40 pictures of {TRAIN_X}"),
    "more test labels": (VAL_Y, idx(21), f"{VAL_Y} has 21 labels for the 20 pictures of {VAL_X}"),
    "no labels": (VAL_Y, idx(0), f"{VAL_Y} has 0 labels for the 20 pictures of {VAL_X}"),
    "unknown class": (TRAIN_Y, idx(40, data=bytes(39) + b"\x0a"), f"{TRAIN_Y} has label 10 at place 39"),
    "labels for pictures": (TRAIN_X, idx(40), f"{TRAIN_X} begins with 00000801"),
    "pictures for labels": (TRAIN_Y, idx(40, 28, 28), f"{TRAIN_Y} begins with 00000803"),
    "another type": (TRAIN_X, idx(40, 28, 28, kind=9), f"{TRAIN_X} begins with 00000903"),
    "no IDX file": (TRAIN_X, b"<html>not found</html>", f"{TRAIN_X} begins with 3c68746d"),
    "empty": (TRAIN_X, b"", f"{TRAIN_X} begins with nothing"),
    "header cut": (TRAIN_X, idx(40, 28, 28)[:9], f"{TRAIN_X} has 0 bytes of data"),
    "a byte short": (
        TRAIN_X,
        idx(40, 28, 28)[:-1],
        f"{TRAIN_X} has 31,359 bytes of data, and its header says 40 x 28 x 28",
    ),
    "a byte long": (
        TRAIN_X,
        idx(40, 28, 28) + b"\0",
        f"{TRAIN_X} has 31,361 bytes of data, and its header says 40 x 28 x 28",
    ),
    "another size": (VAL_X, idx(20, 32, 32), f"pictures of (28, 28) in {TRAIN_X}, and of (32, 32) in {VAL_X}"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", DAMAGED_IDX)
def test_idx_files_that_do_not_fit_each_other_are_refused(tmp_path, case, packed):
    name, content, said = DAMAGED_IDX[case]
    fashion_mnist(tmp_path / "set", packed)
    (tmp_path / "set" / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"^dataset\.root=") as caught:
        arrays(settings("fashion_mnist", root=str(tmp_path / "set")), tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert (said.replace("-ubyte", "-ubyte.gz") if packed else said) in str(caught.value)


@pytest.mark.parametrize("place", [5, 12, 30])
def test_a_damaged_gzip_file_is_one_clear_line(tmp_path, place):
    fashion_mnist(tmp_path / "set", packed=True)
    path = tmp_path / "set" / f"{TRAIN_X}.gz"
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^dataset\.root=.*{path.name}") as caught:
        arrays(settings("fashion_mnist", root=str(tmp_path / "set")), tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([i % 10 for i in range(21)], "(training) has 41 labels for the 40 pictures of cifar-10-batches-py"),
        ([i % 10 for i in range(19)], "(training) has 39 labels for the 40 pictures of cifar-10-batches-py"),
        ([i % 10 for i in range(19)] + [10], "(training) has label 10 at place 39"),
        ([i % 10 for i in range(19)] + [-1], "(training) has label -1 at place 39"),
    ],
)
def test_cifar_whose_labels_do_not_fit_is_refused(tmp_path, monkeypatch, labels, said):
    cifar(tmp_path / "set", monkeypatch, "cifar10")
    path = tmp_path / "set/cifar-10-batches-py/data_batch_2"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {"labels": labels}))
    first, _ = torchvision.datasets.CIFAR10.train_list
    changed = [path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [first, changed])
    with pytest.raises(ValueError, match=r"^dataset\.root=") as caught:
        arrays(settings("cifar10", root=str(tmp_path / "set")), tmp_path / "data")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_small_picture_set_can_be_asked_for_in_another_size_and_colour(tmp_path):
    fashion_mnist(tmp_path / "set", True)
    dataset = settings("fashion_mnist", root=str(tmp_path / "set"), image_size=14, color="rgb")
    assert arrays(dataset, tmp_path / "data").train_x.shape == (40, 3, 14, 14)


def test_imagenette(tmp_path):
    ids = ["n01440764", "n02102040", "n02979186"]
    for split in ("train", "val"):
        picture_tree(tmp_path / "imagenette2-160" / split, ids, 2, ending=".JPEG")
    made = arrays(settings("imagenette", root=str(tmp_path)), tmp_path / "data")
    assert made.classes == ids and made.names[0].startswith("tench")
    assert made.train_x.shape == (6, 3, 64, 64)
    by_name = settings("imagenette", root=str(tmp_path), classes=["tench", "English springer"])
    assert arrays(by_name, tmp_path / "data").classes == ids[:2]


def test_imagenet_as_folders_with_a_file_of_names(tmp_path):
    ids = ["n01440764", "n02012849", "n03126707"]
    for split in ("train", "val"):
        picture_tree(tmp_path / split, ids, 2, size=100)
    rows = zip(ids, ["tench, Tinca tinca", "crane", "crane"], strict=True)
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{a} {b}\n" for a, b in rows))
    made = arrays(settings("imagenet", root=str(tmp_path), classes=["TENCH", "n03126707"]), tmp_path / "data")
    assert made.classes == [ids[0], ids[2]] and made.names == ["tench, Tinca tinca", "crane"]
    with pytest.raises(ValueError, match="crane may be n02012849 or n03126707: give the id"):
        arrays(settings("imagenet", root=str(tmp_path), classes=["tench", "crane"]), tmp_path / "data")


def imagenet_archives(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ILSVRC2012's archives with two classes: a tar of tars, a flat tar, and the devkit that tells them apart."""
    root.mkdir()
    ids, names = ["n01440764", "n03126707"], ["tench, Tinca tinca", "crane"]

    def tarred(members: dict[str, bytes]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue()

    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    synsets = np.array([(1, ids[1], names[1], "", 0), (2, ids[0], names[0], "", 0)], kinds)
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets})
    base = "ILSVRC2012_devkit_t12/data"
    devkit = {f"{base}/meta.mat": mat.getvalue(), f"{base}/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n2\n"}
    train = {f"{key}.tar": tarred({f"{key}_{i}.JPEG": encoded(picture(i)) for i in range(3)}) for key in ids}
    val = {f"ILSVRC2012_val_{i:08}.JPEG": encoded(picture(50 + i)) for i in range(1, 5)}
    for kind, data in (("devkit", gzip.compress(tarred(devkit))), ("train", tarred(train)), ("val", tarred(val))):
        file = ARCHIVE_META[kind][0]
        (root / file).write_bytes(data)
        monkeypatch.setitem(ARCHIVE_META, kind, (file, hashlib.md5(data).hexdigest()))


def test_imagenet_as_archives(tmp_path, monkeypatch):
    imagenet_archives(tmp_path / "set", monkeypatch)
    made = arrays(settings("imagenet", root=str(tmp_path / "set"), num_classes=2), tmp_path / "data")
    assert made.classes == ["n01440764", "n03126707"]
    assert np.bincount(made.train_y).tolist() == [3, 3] and np.bincount(made.val_y).tolist() == [2, 2]
    tench = made.val_x[made.val_y == 0][0].transpose(1, 2, 0).astype(float)
    assert np.abs(tench - np.asarray(picture(52), float)).mean() < 4  # the devkit's class 2


def test_a_half_unpacked_imagenet(tmp_path, monkeypatch):
    imagenet_archives(tmp_path / "set", monkeypatch)
    (tmp_path / "set/train").mkdir()
    (tmp_path / "set/train/n03126707.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"dataset\.root.*broken off"):
        arrays(settings("imagenet", root=str(tmp_path / "set"), num_classes=2), tmp_path / "data")


def test_a_wrong_imagenet_archive(tmp_path, monkeypatch):
    imagenet_archives(tmp_path / "set", monkeypatch)
    (tmp_path / "set/ILSVRC2012_img_train.tar").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"dataset\.root=") as caught:
        arrays(settings("imagenet", root=str(tmp_path / "set"), num_classes=2), tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["imagenet", "imagenette", "cifar10", "cifar100", "fashion_mnist"])
def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, name):
    with pytest.raises(ValueError, match=r"^dataset\.root=.*(dataset\.download=true|image-net\.org)") as caught:
        arrays(settings(name, root=str(tmp_path / "no")), tmp_path / "data")
    assert "\n" not in str(caught.value)
