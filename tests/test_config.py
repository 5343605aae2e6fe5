import os
from pathlib import Path

import pytest
from conftest import make_run
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from mlp_sweep import config


def test_defaults_are_the_experiment():
    run = make_run()
    assert (run.dataset.num_classes, run.model.hidden) == (72, [64, 128])
    assert (run.optimizer.lr, run.optimizer.momentum, run.batch_size, run.epochs) == (0.01, 0.0, 64, 20)
    assert make_run("activation=scaled").activation.r == 62.0


def test_roll_sets_classes_and_slope_and_r_leaves_classes_alone():
    run = make_run("activation=scaled", "roll=5")
    assert (run.dataset.num_classes, run.activation.r) == (15, 5.0)
    assert make_run("activation=scaled", "activation.r=2").dataset.num_classes == 72


def test_relu_has_no_slope():
    assert make_run("activation=relu", "activation.r=7") == make_run("activation=relu")


def test_scaled_of_slope_1_is_relu():
    assert make_run("activation=scaled", "activation.r=1") == make_run("activation=relu")


@pytest.mark.parametrize(
    "override",
    [
        "activation.r=0",
        "activation.r=-2",
        "activation.r=inf",
        "optimizer.lr=0",
        "optimizer.lr=nan",
        "optimizer.momentum=1",
        "optimizer.nesterov=true",
        "optimizer.weight_decay=-1",
        "epochs=-1",
        "batch_size=0",
        "seed=-1",
        "device=tpu",
        "engine=magic",
        "matmul_precision=low",
        "on_divergence=pray",
        "model.hidden=[64,0]",
        "dataset.image_size=0",
        "dataset.num_classes=1",
        "dataset.val_per_class=0",
    ],
)
def test_what_cannot_be_trained_is_refused_by_key(override: str):
    with pytest.raises(ValueError, match=override.split("=")[0]):
        make_run(override)


@pytest.mark.parametrize("override", ["epochs=many", "no_such_key=1", "activation=cubic", "model.hidden=5"])
def test_wrong_types_keys_and_choices_are_refused(override: str):
    with pytest.raises(HydraException):
        make_run(override)


def test_id_is_of_what_decides_the_numbers_and_of_nothing_else():
    run = make_run("activation=scaled", "activation.r=2")
    same = make_run("activation=scaled", "activation.r=2.0", "data_dir=elsewhere", "dry_run=true")
    assert run.id("pictures") == same.id("pictures")
    others = ["seed=1", "data_seed=1", "activation.r=3", "optimizer.lr=0.02", "epochs=21", "batch_size=65"]
    ids = {make_run("activation=scaled", "activation.r=2", other).id("pictures") for other in others}
    assert len(ids | {run.id("pictures"), run.id("other pictures")}) == len(others) + 2


def test_job_directories_are_named_by_overrides_within_bounds():
    assert config.job_dir(["activation=relu", "dataset.root=/some/where"]) == "activation=relu"
    names = {config.job_dir([f"model.hidden=[{','.join(['64'] * n)}]"]) for n in range(1, 300)}
    assert len(names) == 299
    assert all(len(name) < 200 and "/" not in name for name in names)
    assert config.job_dir(["dataset.val=a/b"]) != config.job_dir(["dataset.val=a_b"])


@given(st.lists(st.text(), max_size=400))
def test_any_overrides_name_a_directory_that_can_be_made(tmp_path_factory, overrides: list[str]):
    """One below the sweep's own, whatever the characters: the bound of file systems is in bytes."""
    folder = tmp_path_factory.mktemp("sweep")
    name = config.job_dir(overrides)
    (folder / name).mkdir()
    assert [path.name for path in folder.iterdir()] == [name] and len(os.fsencode(name)) < 200


@pytest.mark.parametrize("override", ["a=" + "日本" * 100, "..", ".", "", "a=b\nc\0d", "~a", "a=" + "x" * 999])
def test_odd_overrides_name_directories_too(tmp_path: Path, override: str):
    (tmp_path / config.job_dir([override])).mkdir()
    assert len(list(tmp_path.iterdir())) == 1
