"""The command as a user types it, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ABSENT_DEVICE, ON_CPU, SMALL

from mlp_sweep import config, run_dir

ABSENT = ABSENT_DEVICE.partition("=")[2]
Done = subprocess.CompletedProcess[str]


def command(folder: Path, *arguments: str, module: str = "mlp_sweep", **environment: str) -> Done:
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=os.environ | environment)


def one_error_line(done: Done) -> str:
    """What a refusal says: one line on stderr, no traceback, exit status 1 or 2."""
    assert done.returncode in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.startswith("mlp_sweep: ")
    return line


def test_help_shows_groups_and_settings_and_imports_no_torch(tmp_path: Path):
    done = command(tmp_path, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for word in ("--multirun", "tiny_imagenet", "scaled", "batch_size", "data_seed"):
        assert word in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "pandas", "matplotlib", "torchvision"}


def test_help_names_the_groups_and_choices_of_conf_and_no_others():
    text = yaml.safe_load((config.CONF_DIR / "hydra/help/mlp_sweep.yaml").read_text())["template"]
    told = dict(re.findall(r"^(\w+): (.+)$", text, re.M))
    folders = [folder for folder in config.CONF_DIR.iterdir() if folder.is_dir() and folder.name != "hydra"]
    there = {folder.name: ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) for folder in folders}
    assert told == there


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset=cifar1000"], "synthetic"),
        (["no_such_key=1"], "no_such_key"),
        (["+lr=0.5"], "lr: no such setting (closest: optimizer.lr"),
        (["epoch=5"], "epoch: no such setting (closest: epochs"),
        (["hydra.launcher.worker=2"], "hydra.launcher.worker"),
        (["hydra/sweeper=nosuch"], "basic"),
        (["epochs=many"], "epochs"),
        (["activation.r=2"], "activation=scaled"),
        (["--config-path=nowhere"], "nowhere"),
        (["activation=scaled", "activation.r=0"], "activation.r"),
        (["optimizer.lr=1e300", "engine=reference"], "optimizer.lr"),
        (["dataset=image_folder"], "dataset.root"),
        (["--multirun", "activation=scaled", "activation.r=2,-1"], "activation.r=-1"),
        (["--multirun", "activation=relu", "activation.r=2,4"], "activation=scaled"),
        (["--multirun", "activation.r=2,4", "hydra/launcher=basic"], "activation=scaled"),
        (["--multirun", "+lr=0.5,1"], "lr: no such setting (closest: optimizer.lr"),
        (["--multirun", "seed=0,1", "hydra.launcher.max_members=0"], "max_members"),
    ],
)
def test_bad_settings_get_one_line_and_leave_nothing(tmp_path: Path, arguments: list[str], said: str):
    assert said in one_error_line(command(tmp_path, *arguments))
    assert not run_dir.find_runs(tmp_path) and not list(tmp_path.rglob(".hydra"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset=tiny_imagenet", "dataset.root=nowhere.zip"], "dataset.root=nowhere.zip"),
        ([ABSENT_DEVICE], ABSENT_DEVICE),
    ],
)
def test_what_only_the_run_can_see_gets_one_line_too(tmp_path: Path, arguments: list[str], said: str):
    assert said in one_error_line(command(tmp_path, *arguments))
    [run] = run_dir.find_runs(tmp_path)
    assert run_dir.read_status(run)["state"] == "failed"


def test_full_error_shows_the_traceback(tmp_path: Path):
    assert "Traceback" in command(tmp_path, "epochs=-1", HYDRA_FULL_ERROR="1").stderr


def test_one_run(tmp_path: Path):
    done = command(tmp_path, *SMALL, "activation=scaled", "activation.r=2")
    assert done.returncode == 0, done.stderr
    [run] = run_dir.find_runs(tmp_path / "outputs" / "runs")
    names = {path.name for path in run.iterdir()}
    assert names == {".hydra", run_dir.LOCK, run_dir.METRICS, run_dir.STATUS, run_dir.WEIGHTS, run_dir.LOG}
    assert len(run_dir.read_metrics(run)[1]) == 3
    assert "ok" in done.stdout and str(run.relative_to(tmp_path)) in done.stdout
    assert (tmp_path / "data" / "cache").is_dir()


def test_a_used_directory_is_refused_before_anything_is_written(tmp_path: Path):
    assert command(tmp_path, *SMALL, "hydra.run.dir=here").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    one_error_line(command(tmp_path, *SMALL, "seed=5", "hydra.run.dir=here"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}


def test_a_sweep_ends_with_its_report(tmp_path: Path):
    done = command(tmp_path, "--multirun", *SMALL, "activation=relu,scaled", "activation.r=2,1e6", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("relu ignores activation.r") == 1
    runs = run_dir.find_runs(tmp_path / "s")
    assert len(runs) == 4 and all((run / ".hydra" / "overrides.yaml").is_file() for run in runs)
    assert "diverged" in done.stdout and "s/report" in done.stdout
    for name in ("training_loss", "train_accuracy", "val_accuracy"):
        for ending in ("png", "svg"):
            assert (tmp_path / "s" / "report" / f"{name}.{ending}").stat().st_size > 1000
    anew = command(tmp_path, "s", "--out", "anew", module="mlp_sweep.report")
    assert anew.returncode == 0, anew.stderr
    assert (tmp_path / "anew" / "epochs.csv").read_bytes() == (tmp_path / "s" / "report" / "epochs.csv").read_bytes()


@pytest.mark.slow
def test_a_sweep_with_failures_reports_the_rest_and_names_each(tmp_path: Path):
    done = command(tmp_path, "--multirun", *SMALL, f"{ON_CPU},{ABSENT}", "seed=0,1", "hydra.sweep.dir=s")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(f"{ABSENT_DEVICE},seed={seed} failed: {ABSENT_DEVICE}" in done.stderr for seed in (0, 1))
    assert (tmp_path / "s" / "report" / "val_accuracy.png").is_file()
    outcomes = {run.name: run_dir.read_status(run)["outcome"] for run in run_dir.find_runs(tmp_path / "s")}
    assert sorted(map(str, outcomes.values())) == ["None", "None", "ok", "ok"]


@pytest.mark.slow
def test_hydras_basic_launcher_names_each_failure_once(tmp_path: Path):
    devices = f"{ON_CPU},{ABSENT}"
    done = command(tmp_path, "--multirun", *SMALL, devices, "hydra/launcher=basic", "hydra.sweep.dir=s")
    assert done.returncode == 1 and done.stderr.count("failed: ") == 1


def test_unknown_names_are_refused_without_torch(tmp_path: Path):
    done = command(tmp_path, "--multirun", "model.name=mlp,cube", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 1 and "mlp_sweep: model.name=cube: must be one of mlp, linear, cnn" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.M) and not run_dir.find_runs(tmp_path)


def test_hydras_basic_launcher_folds_relu_as_the_fused_one_does(tmp_path: Path):
    """There a job knows nothing of the other jobs of its sweep."""
    words = ("--multirun", "activation=relu,scaled", "activation.r=2,4", "dry_run=true", "hydra/launcher=basic")
    done = command(tmp_path, *words)
    assert done.returncode == 0 and done.stderr.count("relu ignores activation.r") == 1


@pytest.mark.slow
def test_a_saved_config_trains_again_in_a_new_directory(tmp_path: Path):
    """By the same settings, or some of them changed; as a sweep too."""
    assert command(tmp_path, *SMALL, "activation=scaled", "hydra.run.dir=first").returncode == 0
    saved = ("--config-path", "first/.hydra", "--config-name", "config")
    for words in (saved, (*saved, "seed=1"), ("--multirun", *saved, "seed=0,2")):
        done = command(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    again = sorted(run_dir.find_runs(tmp_path / "outputs"), key=lambda run: run.stat().st_mtime)
    first, *others = [run_dir.read_status(run) for run in (tmp_path / "first", *again)]
    assert sorted(other["settings"]["seed"] for other in others) == [0, 0, 1, 2]
    assert [other["run_id"] == first["run_id"] for other in others].count(True) == 2
    assert {run.parent.parent.relative_to(tmp_path) for run in again} <= {Path("outputs"), Path("outputs/sweeps")}
    unknown = command(tmp_path, *saved, "epoch=3")
    assert "epoch: no such setting (closest: epochs" in one_error_line(unknown)


@pytest.mark.parametrize("name", ["config.yaml", "activation/relu.yaml"])
def test_a_config_file_that_would_be_ignored_is_refused(tmp_path: Path, name: str):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("epochs: 3\n")
    for mode in ([], ["--multirun"]):
        assert f"mine/{name}: would be ignored" in one_error_line(command(tmp_path, *mode, "--config-dir", "mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_hydras_basic_launcher_trains_the_same(tmp_path: Path):
    for launcher in ("basic", "fused"):
        done = command(
            tmp_path, "--multirun", *SMALL, "seed=0,1", f"hydra/launcher={launcher}", f"hydra.sweep.dir={launcher}"
        )
        assert done.returncode == 0, done.stderr
    for run in run_dir.find_runs(tmp_path / "fused"):
        twin = tmp_path / "basic" / run.name
        assert (run / run_dir.WEIGHTS).read_bytes() == (twin / run_dir.WEIGHTS).read_bytes()


def test_each_job_is_composed_once(tmp_path: Path):
    """Hydra's sweeper composes all of them too, to check them; a thousand would take minutes more."""
    counting = """
import sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from mlp_sweep import cli
composed, load = [], ConfigLoaderImpl.load_sweep_config
ConfigLoaderImpl.load_sweep_config = lambda *given, **named: composed.append(1) or load(*given, **named)
cli.main()
print(len(composed))
"""
    line = [sys.executable, "-c", counting, "--multirun", "seed=0,1,2", "dry_run=true"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "3", done.stderr


def test_the_plan_has_a_stack_a_core(tmp_path: Path):
    for cores, stacks in (("1", "7"), ("3", "3 + 2 + 2"), ("16", "1 + 1 + 1 + 1 + 1 + 1 + 1")):
        done = command(tmp_path, "--multirun", "seed=range(7)", ON_CPU, "dry_run=true", OMP_NUM_THREADS=cores)
        assert f"trained in stacks of {stacks}\n" in done.stderr
    done = command(
        tmp_path, "--multirun", "seed=range(7)", ON_CPU, "matmul_precision=high", "dry_run=true", OMP_NUM_THREADS="3"
    )
    assert "trained in stacks of 7\n" in done.stderr  # its last bits depend on the number of threads


def test_dry_run_shows_the_plan_and_trains_nothing(tmp_path: Path):
    done = command(tmp_path, "--multirun", "activation=relu,scaled", "activation.r=2,62", "dry_run=true",
                   OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 members" in done.stdout and "equal" in done.stdout
    assert not run_dir.find_runs(tmp_path)


def test_experiment_slopes_is_the_whole_sweep(tmp_path: Path):
    done = command(tmp_path, "--multirun", "experiment=slopes", "dry_run=true")
    assert "18 jobs: 12 distinct runs" in done.stderr


@pytest.mark.slow
def test_a_renamed_run_directory_is_recognised_by_the_same_command(tmp_path: Path):
    words = ("--multirun", *SMALL, "seed=0,1", "hydra.sweep.dir=s", "hydra.sweep.subdir=job-${hydra:job.num}")
    assert command(tmp_path, *words).returncode == 0
    (tmp_path / "s" / "job-1").rename(tmp_path / "s" / "kept")
    before = {path: path.read_bytes() for path in (tmp_path / "s" / "kept").rglob("*") if path.is_file()}
    done = command(tmp_path, *words)
    assert done.returncode == 0 and "kept: recognised by its settings as the job job-1" in done.stderr
    assert "0 distinct runs, 2 finished before" in done.stderr and not (tmp_path / "s" / "job-1").exists()
    assert before == {path: path.read_bytes() for path in (tmp_path / "s" / "kept").rglob("*") if path.is_file()}
