"""Sets that lie as trees root/<class>/<picture>: any such folder, ImageNet and Imagenette."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import config
from ..console import Progress
from .draws import draws
from .listing import Listing, Picture
from .subset import choose_classes, thin
from .unpack import check_may_write, unpacked

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
NAME_FILES = ("words.txt", "LOC_synset_mapping.txt", "synset_words.txt")  # a line a class: id, then its name


class Trees:
    """A tree of training pictures, and one for validation or a stratified split drawn by data_seed."""

    def __init__(
        self,
        dataset: config.Pictures,
        data_seed: int,
        train: Path,
        val: Path | None,
        names: Callable[[Sequence[str]], dict[str, str]],
        val_fraction: float = 0.0,
    ) -> None:
        self.dataset, self.data_seed = dataset, data_seed
        self.train, self.val, self.val_fraction = train, val, val_fraction
        self.names = names
        self.fingerprint = stamp([train, val] if val else [train])

    def listing(self) -> Listing:
        there_are = self.names(classes_in(self.train))
        classes = choose_classes(self.dataset, there_are, self.data_seed)
        train: list[Picture] = []
        val: list[Picture] = []
        for label, name in enumerate(classes):
            files = self._files(self.train / name)
            if self.val:
                held_out = self._files(self.val / name)
            else:
                files, held_out = self._split(files, label)
            val += [(file, label) for file in held_out]
            train += [(file, label) for file in thin(files, self.dataset, self.data_seed, label)]
        names = [there_are[name] for name in classes]
        return Listing(classes, names, train, val, lambda name: Path(name).read_bytes())

    def _split(self, files: list[str], label: int) -> tuple[list[str], list[str]]:
        if len(files) < 2:
            folder = Path(files[0]).parent
            raise ValueError(f"dataset.root: one picture only in {folder}, and a split needs two or more of each class")
        shuffled = draws(self.data_seed, 2, label).permutation(files).tolist()
        held_out = min(max(1, round(self.val_fraction * len(files))), len(files) - 1)
        return sorted(shuffled[held_out:]), sorted(shuffled[:held_out])

    def _files(self, folder: Path) -> list[str]:
        files = [e.path for e in pictures_in(folder)] if folder.is_dir() else []
        if not files:
            raise ValueError(f"dataset.root: no picture of a class in {folder} (known endings: {' '.join(EXTENSIONS)})")
        return files


def image_folder(dataset: config.ImageFolder, data_seed: int, _: Progress) -> Trees:
    root = Path(dataset.root)
    train, val = root, Path(dataset.val_root) if dataset.val_root else None
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = root / "train", val or root / "val"
    return Trees(dataset, data_seed, train, val, lambda ids: _names(root, ids), dataset.val_fraction)


def imagenet(dataset: config.Pictures, data_seed: int, _: Progress) -> Trees:
    """ILSVRC 2012 as root/{train,val}/<id>/<picture>, or its three archives, which torchvision checks and unpacks."""
    root = Path(dataset.root)
    for split in ("train", "val"):
        if not (root / split).is_dir() and (root / f"ILSVRC2012_img_{split}.tar").is_file():
            from torchvision.datasets import ImageNet

            check_may_write(root)
            try:
                ImageNet(str(root), split)
            except RuntimeError as error:
                raise ValueError(f"dataset.root={root}: {' '.join(str(error).split())}") from error
        if not (root / split).is_dir():
            raise ValueError(
                f"dataset.root={root}: no folder {split} in it; ImageNet may not be fetched for you: get ILSVRC 2012 "
                "from image-net.org and put its archives, or train/<id>/ and val/<id>/, there"
            )
        if any(name.endswith((".tar", ".JPEG")) for name in os.listdir(root / split)):
            raise ValueError(
                f"dataset.root: {root / split} holds files outside its class folders, as an unpacking that was broken "
                "off leaves them; delete it to unpack anew, or sort them into folders"
            )
    return Trees(dataset, data_seed, root / "train", root / "val", lambda ids: _names(root, ids))


def imagenette(dataset: config.Imagenette, data_seed: int, progress: Progress) -> Trees:
    """Ten easy classes of ImageNet, as torchvision's Imagenette lays them out."""
    root = Path(dataset.root)
    name = "imagenette2" if dataset.size == "full" else f"imagenette2-{dataset.size[:-2]}"
    folder = unpacked(dataset, f"{name}.tgz", name, progress)

    def names(ids: Sequence[str]) -> dict[str, str]:
        from torchvision.datasets import Imagenette

        try:
            known = Imagenette(str(root), size=dataset.size)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"dataset.root={root}: not the whole of Imagenette ({error})") from error
        words = dict(zip(known.wnids, (", ".join(c) for c in known.classes), strict=True))
        return {key: words.get(key, key) for key in ids}

    return Trees(dataset, data_seed, folder / "train", folder / "val", names)


def classes_in(root: Path) -> list[str]:
    """The names of the class folders under root; ValueError where there are none."""
    if not root.is_dir():
        raise ValueError(f"dataset.root={root}: no such folder")
    classes = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    if not classes:
        raise ValueError(f"dataset.root={root}: no class folders in it (root/<class>/<picture> is expected)")
    return classes


def pictures_in(folder: Path) -> list[os.DirEntry[str]]:
    entries = [e for e in os.scandir(folder) if e.name.lower().endswith(EXTENSIONS) and e.is_file()]
    return sorted(entries, key=lambda e: e.name)


def stamp(trees: Sequence[Path]) -> str:
    """Hash of every picture's path, size and time of change under some trees of class folders."""
    digest = hashlib.sha256()
    for tree in trees:
        for folder in classes_in(tree):
            for entry in pictures_in(tree / folder):
                stat = entry.stat()
                digest.update(f"{folder}/{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _names(root: Path, ids: Sequence[str]) -> dict[str, str]:
    """id -> name: from a file of names beside the classes, by torchvision for ImageNet's thousand, or the id again."""
    names: dict[str, str] = {}
    for path in (root / name for name in NAME_FILES):
        if path.is_file():
            names = dict(
                line.split(maxsplit=1)
                for line in path.read_text("utf-8", "replace").splitlines()
                if len(line.split()) > 1
            )
            break
    else:
        if len(ids) == 1000 and all(key[:1] == "n" and key[1:].isdigit() for key in ids):
            from torchvision.models import ResNet18_Weights  # its categories are in the order of the ids

            names = dict(zip(sorted(ids), ResNet18_Weights.DEFAULT.meta["categories"], strict=True))
    return {key: names.get(key, key).strip() for key in ids}
