"""experiment=assignment: the same run from the whole archive and from one cut to its classes, and what it sweeps."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_run
from small_sets import IDS, NAMES, arrays, settings, tiny_imagenet_tree, zipped
from test_cli import command

from mlp_sweep import config, run_dir

PRESET = yaml.safe_load((config.CONF_DIR / "experiment/assignment.yaml").read_text())
CLASSES = PRESET["dataset"]["classes"]
OTHERS = ["n00000001", "n01768300", "n02099650", "n02906734", "n12267677"]  # before, among and behind the 72


def cut(tree: Path, keep: Iterable[str], to: Path) -> Path:
    """The tree with some of its classes alone, each list in its own order."""
    keep = set(keep)
    (to / "val/images").mkdir(parents=True)
    for name in keep:
        shutil.copytree(tree / "train" / name, to / "train" / name)
    for name in ("wnids.txt", "words.txt"):
        lines = (tree / name).read_text().splitlines()
        (to / name).write_text("".join(f"{line}\n" for line in lines if line.split("\t")[0] in keep))
    rows = [row for row in (tree / "val/val_annotations.txt").read_text().splitlines() if row.split("\t")[1] in keep]
    (to / "val/val_annotations.txt").write_text("".join(f"{row}\n" for row in rows))
    for row in rows:
        shutil.copy(tree / "val/images" / row.split("\t")[0], to / "val/images")
    return to


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of 77 classes, and the same cut to the 72 of the preset."""
    folder = tmp_path_factory.mktemp("archives")
    order = np.random.RandomState(0).permutation([*CLASSES, *OTHERS]).tolist()
    whole = tiny_imagenet_tree(folder / "whole", per_class=3, val_per_class=2, ids=order, size=8)
    part = cut(whole, CLASSES, folder / "part")
    return zipped(whole, folder / "whole.zip", zipfile.ZIP_STORED), zipped(
        part, folder / "part.zip", zipfile.ZIP_STORED
    )


def test_it_names_72_classes_in_the_order_of_their_labels():
    assert len(CLASSES) == 72 and CLASSES == sorted(set(CLASSES))
    run = make_run("experiment=assignment", "dataset.root=none")
    assert run.dataset == settings("tiny_imagenet", root="none", classes=CLASSES) and run.dataset.num_classes == 72
    assert (run.epochs, run.optimizer.lr, run.batch_size, run.model.hidden) == (20, 0.01, 64, [64, 128])


@pytest.mark.parametrize("more", [[], ["dataset.samples_per_class=2"], ["data_seed=3", "dataset.samples_per_class=1"]])
def test_both_archives_give_the_same_run(archives, tmp_path, more):
    made, ids = [], []
    for number, archive in enumerate(archives):
        run = make_run("experiment=assignment", f"dataset.root={archive}", "dataset.image_size=8", *more)
        made.append(arrays(run.dataset, tmp_path / str(number), run.data_seed))
        ids.append(run.id(made[-1].fingerprint))
    whole, part = made
    assert whole.classes == part.classes == CLASSES and whole.names == part.names
    for split in ("train_x", "train_y", "val_x", "val_y"):
        np.testing.assert_array_equal(getattr(whole, split), getattr(part, split))
    assert whole.fingerprint == part.fingerprint and ids[0] == ids[1]


def test_drawn_classes_are_others_in_a_larger_archive(archives, tmp_path):
    """Which is why the preset names them."""
    drawn = [
        arrays(settings("tiny_imagenet", root=str(archive), image_size=8), tmp_path).classes for archive in archives
    ]
    assert len(drawn[0]) == len(drawn[1]) == 72 and drawn[0] != drawn[1]


def test_classes_by_name_and_by_id_are_the_same_run_in_any_order(tmp_path):
    whole = tiny_imagenet_tree(tmp_path / "whole", 3, 2)
    part = cut(whole, [IDS[0], IDS[2], IDS[3]], tmp_path / "part")
    wanted = [[NAMES[2], "goldfish"], [IDS[0], IDS[2]], [IDS[2], NAMES[0]]]
    made = [
        arrays(settings("tiny_imagenet", root=str(tree), classes=classes), tmp_path / "data")
        for tree in (whole, part)
        for classes in wanted
    ]
    assert len({one.fingerprint for one in made}) == 1
    assert all(one.classes == [IDS[0], IDS[2]] and one.val_y.tolist() == [0, 0, 1, 1] for one in made)


def test_it_sweeps_the_slopes_and_seeds_of_the_readme():
    assert PRESET["hydra"]["sweeper"]["params"] == {
        "activation": "relu,scaled",
        "activation.r": "1.5,2,3,4,8,62",
        "seed": "0,1,2,3,4",
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param(
            [],
            [(a, r, s) for a in ("relu", "scaled") for r in ("1.5", "2", "3", "4", "8", "62") for s in range(5)],
            marks=pytest.mark.slow,  # 60 jobs to compose
        ),
        (["seed=0,1", "activation.r=2"], [(a, "2", s) for a in ("relu", "scaled") for s in range(2)]),
        (["activation=scaled", "seed=7"], [("scaled", r, 7) for r in ("1.5", "2", "3", "4", "8", "62")]),
    ],
    ids=["as it is", "fewer seeds and slopes", "one activation"],
)
def test_what_is_given_on_the_command_line_takes_its_place(tmp_path, overrides, expected):
    done = command(tmp_path, "--multirun", "experiment=assignment", "dataset.root=none", "dry_run=true", *overrides)
    assert done.returncode == 0, done.stderr
    names = [line.strip().removeprefix("equal: ") for line in done.stdout.splitlines() if line.startswith("  ")]
    jobs = [dict(part.split("=") for part in name.split(",")) for name in names]
    seen = {(job["activation"], job["activation.r"], int(job["seed"])) for job in jobs}
    assert len(jobs) == len(expected) and seen == set(expected)


@pytest.mark.slow
def test_it_trains_from_either_archive_to_the_same_metrics(archives, tmp_path):
    rows = []
    for number, archive in enumerate(archives):
        done = command(
            tmp_path, "--multirun", "experiment=assignment", f"dataset.root={archive}", "dataset.image_size=8",
            "activation.r=2", "seed=0", "epochs=1", f"hydra.sweep.dir={number}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        runs = sorted(run_dir.find_runs(tmp_path / str(number)))
        rows.append([[row[:-1] for row in run_dir.read_metrics(run)[1]] for run in runs])
        rows[-1] += [run_dir.read_status(run)["run_id"] for run in runs]
    assert len(rows[0]) == 4 and rows[0] == rows[1]
