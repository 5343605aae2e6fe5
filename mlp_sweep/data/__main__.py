"""Prepares a set of pictures and shows what is in it, without training.

python -m mlp_sweep.data dataset=tiny_imagenet dataset.root=tiny-imagenet-200.zip
python -m mlp_sweep.data dataset=image_folder dataset.root=pictures dataset.image_size=32 dataset.on_error=skip

All settings of `python -m mlp_sweep` can be given; those of dataset, roll, data_seed and data_dir decide.
"""

import sys

import numpy as np
from hydra import compose, initialize_config_dir

from .. import cli, config, console
from .cache import Arrays, load
from .contact_sheet import contact_sheet

SHOWN = 12  # skipped pictures listed on the terminal; the record has all


def main(overrides: list[str]) -> None:
    """Exit status 0, or 1 with one line on stderr."""
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return
    try:
        with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
            run, _ = config.to_run(compose("config", overrides))
        arrays = load(run.dataset, run.data_seed, run.data_dir, console.Progress())
        path = arrays.folder / "contact_sheet.png"
        contact_sheet(arrays).save(path)
        show(run.dataset.name, arrays)
        console.result(f"{'contact sheet':<14} {path}")
    except KeyboardInterrupt:
        console.stopped(None)
    except cli.USER_ERRORS as error:
        console.error(cli.one_line(error))
        sys.exit(1)


def show(name: str, arrays: Arrays) -> None:
    channels, height, width = arrays.train_x.shape[1:]
    rows = {
        "set": f"{name}, {len(arrays.classes)} classes",
        "training": f"{len(arrays.train_y):,} pictures, {_a_class(arrays.train_y)}",
        "validation": f"{len(arrays.val_y):,} pictures, {_a_class(arrays.val_y)}",
        "picture": f"{channels} x {height} x {width}, {channels * height * width:,} features",
        "mean": " ".join(f"{level:.2f}" for level in arrays.mean_C),
        "deviation": " ".join(f"{level:.2f}" for level in arrays.std_C),
        "on disk": f"{(arrays.train_x.nbytes + arrays.val_x.nbytes) / 1e6:,.1f} MB in {arrays.folder}",
        "fingerprint": arrays.fingerprint[:16],
        "skipped": f"{len(arrays.skipped):,} pictures",
    }
    for key, text in rows.items():
        console.result(f"{key:<14} {text}")
    for picture, reason in list(arrays.skipped.items())[:SHOWN]:
        console.result(f"{'':<14} {picture}: {reason}")
    for label, (key, words) in enumerate(zip(arrays.classes, arrays.names, strict=True)):
        console.result(f"{'class':<8} {label:>5} {key}{'' if words == key else f'  {words}'}")


def _a_class(y_N: np.ndarray) -> str:
    counts = np.bincount(y_N)
    few, many = counts.min(), counts.max()
    return f"{few:,} a class" if few == many else f"{few:,} to {many:,} a class"


if __name__ == "__main__":
    main(sys.argv[1:])
