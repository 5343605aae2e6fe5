"""A run directory from a stranger: reported or resumed, it runs no code, writes nowhere else, and scripts no page."""

import json
import os
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import write_run

from mlp_sweep import aggregate, asked, config, plan, record, report, resume, run_dir, sealed, workers

SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Owning:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A sweep of one run."""
    sweep = tmp_path_factory.mktemp("once") / "sweep"
    run = make_run(*SMALL, f"data_dir={data_dir}", "epochs=1", "model.hidden=[8]", "optimizer.momentum=0.9")
    [stack] = plan.stacks([plan.job(run, sweep / "run")], None, 2**40)
    list(record.record(stack, workers.events(stack)))
    asked.sweep(sweep, {sweep / "run": run_dir.read_status(sweep / "run")["settings"]})
    return sweep


@pytest.fixture
def trained(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to harm; the test is in the folder that it lies in."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(once, tmp_path / "sweep")


def unfinished(run: Path) -> None:
    """As a kill in its last epoch leaves it."""
    sealed.write_record(run / run_dir.STATUS, run_dir.read_status(run) | {"state": "running"})


@pytest.mark.parametrize("name", [run_dir.WEIGHTS, run_dir.CHECKPOINT, run_dir.STATUS, run_dir.METRICS])
def test_a_pickle_under_another_name_is_not_unpickled(trained: Path, name: str, capsys: pytest.CaptureFixture[str]):
    (trained / "run" / name).write_bytes(pickle.dumps(Owning(trained / "owned")))
    try:
        aggregate.read([trained])
    except ValueError as error:
        assert name in str(error)
    try:
        resume.main([str(trained / "run")])
    except SystemExit as left:
        assert left.code == 1
    assert name in capsys.readouterr().err and not (trained / "owned").exists()


def test_a_list_of_jobs_is_not_unpickled(trained: Path, capsys: pytest.CaptureFixture[str]):
    (trained / asked.JOBS).write_bytes(pickle.dumps(Owning(trained / "owned")))
    with pytest.raises(SystemExit):
        resume.main([str(trained)])
    assert asked.JOBS in capsys.readouterr().err and not (trained / "owned").exists()


@pytest.mark.parametrize("name", [".lock", run_dir.LOG, run_dir.METRICS, run_dir.STATUS, run_dir.CHECKPOINT])
@pytest.mark.parametrize("ending", ["", ".partial"])
def test_links_are_not_written_through(trained: Path, tmp_path: Path, name: str, ending: str):
    unfinished(trained / "run")
    link, outside = trained / "run" / f"{name}{ending}", tmp_path / "outside"
    outside.write_bytes(link.read_bytes() if link.exists() else b"untouched")
    before = outside.read_bytes()
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    try:
        resume.main([str(trained / "run")])
    except SystemExit as left:
        assert left.code == 1
    assert outside.read_bytes() == before


def test_a_link_to_a_run_elsewhere_is_not_followed(trained: Path, tmp_path: Path):
    unfinished(trained / "run")
    (trained / "run").rename(tmp_path / "elsewhere")
    (trained / "run").symlink_to(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    with pytest.raises(SystemExit):
        resume.main([str(trained)])
    assert before == {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}


@pytest.mark.slow
def test_a_report_is_not_written_through_a_link(trained: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (trained / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="report: a link"):
        report.main([str(trained)])
    (trained / "report").unlink()
    (trained / "report").mkdir()
    (tmp_path / "outside").write_text("untouched")
    for name in ("report.html", "report.html.partial", "epochs.csv", "training_loss.png", "training_loss.png.partial"):
        (trained / "report" / name).symlink_to(tmp_path / "outside")
    report.main([str(trained)])
    assert (tmp_path / "outside").read_text() == "untouched" and list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/tmp/mlp_sweep_outside", "a/../../outside"])
def test_jobs_lead_nowhere_else(trained: Path, name: str):
    jobs = asked.jobs(trained)
    sealed.write_record(trained / asked.JOBS, {"jobs": jobs | {name: jobs["run"]}})
    with pytest.raises(ValueError, match="jobs.json"):
        resume.resume(trained, [])
    assert not (trained / name).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_dir": "/nowhere/at/all"}, "data_dir=/nowhere/at/all"),
        ({"data_dir": "${oc.env:HOME}"}, "reference"),
        ({"dataset": "!!python/object/apply:os.system ['touch owned']"}, "run"),
        ({"dataset": {"name": "../../outside"}}, "run"),
        ({"model": {"name": "__import__", "hidden": [1]}}, "run"),
        ({"epochs": 1e400}, "epochs"),
        ({"seed": 10**30}, "seed"),
        ({"settings": None}, "run"),
    ],
)
def test_settings_of_a_stranger_are_checked_like_anybodys(trained: Path, tmp_path: Path, change: dict, said: str):
    run = trained / "run"
    before = {path.name for path in tmp_path.iterdir()}
    status = run_dir.read_status(run)
    sealed.write_record(run / run_dir.STATUS, status | {"state": "waiting", "settings": status["settings"] | change})
    with pytest.raises((ValueError, SystemExit), match=said if "name" not in str(change) else None):
        resume.resume(run, [])
    assert {path.name for path in tmp_path.iterdir()} <= before | {"data"} and not Path("/nowhere").exists()


def test_nothing_is_fetched_because_a_record_says_so(tmp_path: Path):
    settings = asdict(make_run("dataset=tiny_imagenet", "dataset.root=x.zip", "dataset.download=true"))
    settings["dataset"]["url"] = "http://a.invalid"
    taken_up = resume.job(tmp_path / "run", settings, []).run.dataset
    assert isinstance(taken_up, config.Pictures) and not taken_up.download


@pytest.mark.parametrize("kind", ["cifar10", "imagenet", "fashion_mnist", "imagenette", "tiny_imagenet"])
def test_runs_of_every_data_set_can_be_taken_up(tmp_path: Path, kind: str):
    run = make_run(f"dataset={kind}")
    assert resume.job(tmp_path / "run", asdict(run), []).run == run


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad", seed=1) / run_dir.METRICS).unlink()
    os.mkfifo(tmp_path / "bad" / run_dir.METRICS)
    assert "metrics.csv: unreadable" in str(aggregate.read([tmp_path]).left_out)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(SCRIPT) | st.just(10**400) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just(SCRIPT), inner, max_size=3)
    ),
    max_leaves=4,
)
STATUS_KEYS = ["state", "outcome", "reason", "epoch", "epochs", "run_id", "data", "versions", "command", "device",
               "same_as", "git_commit", "engine", "kernel", "diverged_at", "metrics_sha256", "seal"]  # fmt: skip
SETTINGS_KEYS = ["dataset", "model", "activation", "optimizer", "seed", "epochs", "batch_size", SCRIPT]


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(STATUS_KEYS), JSON), st.dictionaries(st.sampled_from(SETTINGS_KEYS), JSON))
def test_whatever_a_status_holds_it_is_read_or_left_out_with_a_reason(tmp_path_factory, status: dict, chosen: dict):
    folder = tmp_path_factory.mktemp("sweep")
    write_run(folder / "good")
    write_run(folder / "odd", seed=1, status=status, settings=chosen)
    sweep = aggregate.read([folder])
    assert len(sweep.runs) + len(sweep.left_out) + len(sweep.copies) >= 2


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # labels of a hostile length leave no room
@pytest.mark.slow
def test_scripts_in_every_field_stay_text(tmp_path: Path):
    """Names of folders, settings, reasons, commands, versions: all of them reach the page escaped."""
    fields: dict = {key: SCRIPT for key in ("reason", "device", "git_commit", "engine", "kernel")}
    fields |= {"command": [SCRIPT], "versions": {SCRIPT: SCRIPT}}
    fields["data"] = {"name": SCRIPT, "classes": 10, "fingerprint": SCRIPT}
    for seed in range(3):
        common = {"dataset": {"name": SCRIPT}, "seed": seed}
        name = f"{SCRIPT.replace('/', '_')}{seed}"
        write_run(tmp_path / "sweep" / name, seed=seed, status=fields, settings=common)
        write_run(tmp_path / "sweep" / f"b{seed}", "<b>", 2.0, seed=seed, settings=common | {SCRIPT: SCRIPT})
    page = (report.write([tmp_path / "sweep"], tmp_path / "out") / "report.html").read_text()
    assert "<script>alert" not in page and "<img" not in page and "&lt;script&gt;alert" in page


def test_deep_nesting_is_named(tmp_path: Path):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad", seed=1) / run_dir.STATUS).write_text('{"a":' * 100_000)
    assert "status.json: unreadable" in str(aggregate.read([tmp_path]).left_out)
    with pytest.raises(SystemExit):
        resume.main([str(tmp_path / "bad")])


def test_arrays_of_others_are_no_checkpoint(tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones(2)}, tmp_path / run_dir.CHECKPOINT, {"mlp_sweep": json.dumps({"seal": "", "about": "{}"})})
    with pytest.raises(ValueError, match="checkpoint"):
        sealed.read_arrays(tmp_path / run_dir.CHECKPOINT)
