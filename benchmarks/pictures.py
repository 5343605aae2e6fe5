"""python -m benchmarks.pictures --archive tiny-imagenet-200.zip --photos FOLDER: what preparing pictures takes.

Decoding beside Pillow, in one thread, and the difference in grey levels; the real preparation of photographs on all
cores, and what that makes for the 1,281,167 + 50,000 pictures of ImageNet-1k at 64 pixels (photos: any of its kind).
"""

import argparse
import io
import itertools
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image

from mlp_sweep import cli, config, console, machine
from mlp_sweep.data import load
from mlp_sweep.data.archive import Archive
from mlp_sweep.data.decode import Rules, decode
from mlp_sweep.data.folders import EXTENSIONS
from mlp_sweep.data.sources import source

assert cli  # its import registers the schema with Hydra
SOME = 4000  # pictures of the archive
COPIES, LISTED = 60, 3000  # of each photograph: prepared, and listed alone
IMAGENET = 1_281_167 + 50_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("--archive", type=Path, help="of Tiny ImageNet")
    parser.add_argument("--photos", type=Path, help="a folder of photographs, at any depth")
    args = parser.parse_args()
    if args.archive:
        archive = Archive(args.archive)
        names = [name for name in archive.members if name.endswith(".JPEG")]
        compare("64-pixel JPEGs", [archive.read(name) for name in names[:SOME]], settings("nowhere"), 5)
    if args.photos:
        photos = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in EXTENSIONS)
        compare("photographs", [path.read_bytes() for path in photos], settings("nowhere"), 5)
        imagenet(photos)


def settings(root: str) -> config.Pictures:
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        overrides = ["dataset=image_folder", f"dataset.root={root}", "dataset.num_classes=null"]
        run, _ = config.to_run(compose("config", overrides))
    assert isinstance(run.dataset, config.Pictures)
    return run.dataset


def compare(what: str, encoded: list[bytes], rules: Rules, rounds: int) -> None:
    def pillow(data: bytes) -> np.ndarray:
        """The whole picture decoded, its shorter side made 64, the centre cut out: torchvision's Resize, CenterCrop."""
        image, size = Image.open(io.BytesIO(data)).convert("RGB"), rules.image_size
        width, height = (int(side * size / min(image.size)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)

    ours, theirs = [], []  # in turn, since the machine's speed drifts
    for _ in range(rounds):
        ours.append(len(encoded) / timed(lambda: [decode(data, rules) for data in encoded]))
        theirs.append(len(encoded) / timed(lambda: [pillow(data) for data in encoded]))
    apart = [np.abs(decode(data, rules).astype(int) - pillow(data)).mean() for data in encoded]
    for name, rates in (("ours", ours), ("Pillow", theirs)):
        spread = f"({min(rates):,.0f} to {max(rates):,.0f})"
        print(f"{what}, one thread, {name}: {np.median(rates):,.0f} {spread} a second")
    print(f"{what}: {np.mean(apart):.2f} grey levels apart on average, {max(apart):.2f} in the worst picture")


def imagenet(photos: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for copies, name in ((COPIES, "prepared"), (LISTED, "listed")):
            for i, path in itertools.product(range(copies), photos):
                link = Path(folder, name, "ab"[i % 2], f"{i}-{path.name}")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        tree, data_dir = settings(f"{folder}/prepared"), f"{folder}/data"
        rate = COPIES * len(photos) / timed(lambda: load(tree, 0, data_dir, console.Progress()))
        before, tree = peak(), settings(f"{folder}/listed")
        print(f"preparation on {machine.cores()} cores: {rate:,.0f} photographs a second, at most {before:,.0f} MB")
        seconds = timed(lambda: source(tree, 0, console.Progress()).listing())
        more = peak() - before
        scale = IMAGENET / (LISTED * len(photos))
        print(f"ImageNet-1k: {IMAGENET:,} / {rate:,.0f} = {IMAGENET / rate / 60:,.0f} min of decoding")
        print(f"  + {scale:.1f} x {seconds:.1f} s of listing, {scale:.1f} x {more:,.0f} MB of names")
        print(f"  {IMAGENET:,} x 12,288 bytes = {IMAGENET * 12288 / 1e9:.1f} GB on disk")


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
