import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import make_run
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from made_up import write_run

from mlp_sweep import aggregate, cli, config


def test_defaults_are_the_experiment():
    run = make_run()
    assert (run.dataset.num_classes, run.model.hidden) == (72, [64, 128])
    assert (run.optimizer.lr, run.optimizer.momentum, run.batch_size, run.epochs) == (0.01, 0.0, 64, 20)
    assert make_run("activation=scaled").activation.r == 62.0


def test_roll_sets_classes_and_slope_and_r_leaves_classes_alone():
    run = make_run("activation=scaled", "roll=5")
    assert (run.dataset.num_classes, run.activation.r) == (15, 5.0)
    assert make_run("activation=scaled", "activation.r=2").dataset.num_classes == 72


def test_a_slope_for_relu_is_refused_alone_and_ignored_in_a_sweep():
    with pytest.raises(ValueError, match="activation.r=7: .*activation=scaled has one"):
        make_run("activation=relu", "activation.r=7", in_sweep=False)
    assert make_run("activation=relu", "activation.r=7") == make_run("activation=relu", in_sweep=False)
    assert make_run("activation=scaled", "activation.r=7", in_sweep=False).activation.r == 7


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
        "activation.name=cube",
        "model.name=transformer",
        "optimizer.name=adam",
        "dataset.name=cifar10",
        "activation.r=1e30",
        "optimizer.lr=1e30",
        f"optimizer.lr={2.0**63}",
        f"optimizer.weight_decay={2.0**63}",
        f"batch_size={2**63}",
        f"seed={2**63}",
        f"model.hidden=[{2**63}]",
        "epochs=1_000_001",
        f"epochs={10**30}",
        pytest.param(f"model.hidden=[{','.join(['1'] * 1001)}]", id="model.hidden of 1001 layers"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_key(override: str):
    with pytest.raises(ValueError, match=override.split(".name")[0].split("=")[0]):
        make_run("activation=scaled", override)


def test_the_largest_numbers_are_trained_and_reported(tmp_path: Path):
    """One bound for both: what training accepts, the report reads, and what it refuses, the report leaves out."""
    below = math.nextafter(2.0**63, 0)
    run = make_run("activation=scaled", f"activation.r={below}", f"optimizer.lr={below}", "epochs=1_000_000")
    write_run(tmp_path / "below", settings=asdict(run), status={"epoch": 0})
    above = asdict(run) | {"optimizer": asdict(run.optimizer) | {"lr": 2.0**63}}
    write_run(tmp_path / "above", settings=above, seed=1)
    sweep = aggregate.read([tmp_path])
    assert list(sweep.runs["optimizer.lr"]) == [below]
    [(path, why)] = sweep.left_out
    assert path.endswith("above") and "optimizer.lr" in why
    assert len(make_run(f"model.hidden=[{','.join(['1'] * 1000)}]").model.hidden) == 1000


@pytest.mark.parametrize("key", ["optimizer.weight_decay", "optimizer.momentum"])
def test_zero_has_one_sign(key: str):
    runs = make_run(f"{key}=-0.0"), make_run(f"{key}=0"), make_run(f"{key}=0.0")
    assert len({run.id("pictures") for run in runs}) == 1
    section, leaf = key.split(".")
    settings = asdict(runs[0])
    settings[section][leaf] = -0.0
    assert config.from_settings(settings).id("pictures") == runs[0].id("pictures")


UNKNOWN = [
    ("lr=0.5", "optimizer.lr"),
    ("optimizer._target_=torch.optim.Adam", "optimizer"),
    ("optimizer.weight_deca=1", "optimizer.weight_decay"),
    ("model.init=he", "model"),
    ("dataset.foo=1", "dataset"),
    ("dataset.image_sise=1", "dataset.image_size"),
    ("dataset.root=x", "no such setting"),
    ("epoch=5", "epochs"),
    ("activaton=scaled", "activation"),
    ("augment.flips=true", "augment.flip"),
    ("no_such_key_at_all=1", "--help"),
]


@pytest.mark.parametrize(("override", "closest"), UNKNOWN)
@pytest.mark.parametrize("sign", ["", "+"])
def test_what_no_setting_is_called_is_refused_with_the_closest(override: str, closest: str, sign: str):
    key = override.split("=")[0]
    with pytest.raises((ValueError, HydraException)) as refused:
        make_run(sign + override)
    said = cli.one_line(refused.value)
    assert said.startswith(f"{key}: ") and closest in said.removeprefix(key) and "\n" not in said


def test_records_are_held_to_the_same_keys():
    run = make_run()
    for override, closest in UNKNOWN:
        key, _, value = override.partition("=")
        section, _, leaf = key.rpartition(".")
        settings = asdict(run)
        (settings[section] if section in settings else settings)[leaf] = value
        with pytest.raises(ValueError, match=f"{leaf}: .*{closest}"):
            config.from_settings(settings)


def test_group_files_of_the_users_own_are_held_to_them_too(tmp_path: Path):
    (tmp_path / "activation").mkdir()
    (tmp_path / "activation" / "mine.yaml").write_text("name: scaled\nr: 3.0\n")
    (tmp_path / "activation" / "typo.yaml").write_text("name: scaled\nr: 3.0\nslope: 2\n")
    found = f"hydra.searchpath=['file://{tmp_path}']"
    assert make_run(found, "activation=mine").activation == config.Activation("scaled", 3.0)
    with pytest.raises(HydraException) as refused:
        make_run(found, "activation=typo")
    assert cli.one_line(refused.value).startswith("activation.slope: no such setting")


def test_an_experiment_can_set_anything(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /activation: scaled\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{text}epochs: 7\nactivation:\n  r: 3\nvars:\n  x: 4\n")
    run = make_run(f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine", "seed=${vars.x}")
    assert (run.epochs, run.activation.r, run.seed) == (7, 3.0, 4)


def test_vars_are_for_reference_and_part_of_no_run():
    run = make_run("+vars.x=3", "+vars.pair=[0.5,9]", "seed=${vars.x}", "optimizer.lr=${vars.pair[0]}")
    same = make_run("seed=3", "optimizer.lr=0.5")
    assert run == same and run.id("pictures") == same.id("pictures") and "vars" not in asdict(run)
    with pytest.raises(ValueError, match="vars"):
        config.from_settings(asdict(run) | {"vars": {"x": 3}})


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
