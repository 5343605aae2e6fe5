"""Small sets of generated pictures in the layouts of the real ones, and dataset settings as conf/ composes them."""

import dataclasses
import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image

from mlp_sweep import cli, config, console
from mlp_sweep.data import Arrays, load
from mlp_sweep.data.synthetic import fields

assert cli  # its import registers the schema with Hydra

IDS = ["n01443537", "n01629819", "n02123045", "n02124075"]
NAMES = ["goldfish, Carassius auratus", "European fire salamander", "tabby, tabby cat", "Egyptian cat"]


@functools.cache
def run_settings(group: str) -> config.Run:
    """What `dataset=<group>` and the defaults compose to."""
    overrides = [f"dataset={group}"] + ([] if group == "synthetic" else ["dataset.root=nowhere"])
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        return config.to_run(compose("config", overrides))[0]


def settings(group: str, **changes: object) -> config.Dataset:
    """The data set of `dataset=<group> dataset.<key>=<value> ...`."""
    return dataclasses.replace(run_settings(group).dataset, **changes)  # type: ignore[arg-type]


def arrays(dataset: config.Dataset, data_dir: Path, data_seed: int = 0) -> Arrays:
    return load(dataset, data_seed, str(data_dir), console.Progress())


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A smooth colour field, different for every seed."""
    field = fields(np.random.RandomState(seed), 1, max(width, height))[0, :, :height, :width]
    return Image.fromarray(((field + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture_tree(root: Path, classes: list[str], per_class: int, size: int = 64, ending: str = ".jpg") -> Path:
    """root/<class>/<picture>"""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"{i:03}{ending}").write_bytes(encoded(picture(1000 * c + i, size, size)))
    return root


def tiny_imagenet_tree(
    root: Path, per_class: int = 6, val_per_class: int = 2, ids: Sequence[str] = IDS, size: int = 64
) -> Path:
    """The layout of the unpacked archive, with the classes of IDS or others, which have their ids for names."""
    rows = []
    names = NAMES if ids == IDS else ids
    (root / "val/images").mkdir(parents=True)
    for c, name in enumerate(ids):
        images = root / "train" / name / "images"
        images.mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
        for i in range(per_class):
            (images / f"{name}_{i}.JPEG").write_bytes(encoded(picture(100 * c + i, size, size)))
        for i in range(val_per_class):
            file = f"val_{c + i * len(ids)}.JPEG"
            (root / "val/images" / file).write_bytes(encoded(picture(9000 + 100 * c + i, size, size)))
            rows.append(f"{file}\t{name}\t0\t0\t62\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(reversed(ids)) + "\n")
    (root / "words.txt").write_text("".join(f"{key}\t{name}\n" for key, name in zip(ids, names, strict=True)))
    return root


def zipped(tree: Path, archive: Path, compression: int) -> Path:
    """The tree under tiny-imagenet-200/ in a zip file."""
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            file.write(path, Path("tiny-imagenet-200") / path.relative_to(tree))
    return archive
