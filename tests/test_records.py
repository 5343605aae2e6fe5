"""Records of older versions: read, resumed and predicted with by this one. tests/records/version_N is never changed.

version_1 is a sweep of 8 jobs, interrupted in epoch 5 of its seventh; expected.json holds what the code of that day
made of it when it was resumed and when it was then given more epochs.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, make_run
from test_resume import train

from mlp_sweep import aggregate, asked, config, migrations, plan, predictor, resume, run_dir, sealed

KEPT = Path(__file__).parent / "records" / "version_1"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
STATES = [
    "finished",
    "finished",
    "finished",
    "finished",
    "finished",
    "finished",
    "stopped",
    None,
]  # of job-0, job-1, ...


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the test is in the folder that it lies in."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(KEPT, tmp_path / "sweep", ignore=shutil.ignore_patterns("expected.json"))


def assert_as_expected(sweep: Path, expected: dict[str, Any]) -> None:
    """Bit-identical on the processor and with the torch that made the expectation, else equal to five digits."""
    there = {run.name: run for run in run_dir.find_runs(sweep)}
    assert there.keys() == expected.keys()
    status = run_dir.read_status(there["job-6"])
    same_bits = all(status[key] == EXPECTED[key] for key in ("device", "kernel"))
    same_bits = same_bits and status["versions"]["torch"] == EXPECTED["torch"]
    for name, wanted in expected.items():
        header, *rows = [line.rsplit(",", 1)[0] for line in (there[name] / run_dir.METRICS).read_text().splitlines()]
        arrays, _ = sealed.read_arrays(there[name] / run_dir.WEIGHTS)
        digest = hashlib.sha256(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays))).hexdigest()
        assert header == wanted["rows"][0] and len(rows) == len(wanted["rows"]) - 1
        if same_bits:
            assert rows == wanted["rows"][1:] and digest == wanted["weights_sha256"]
        for row, wanted_row in zip(rows, wanted["rows"][1:], strict=True):
            np.testing.assert_allclose([float(cell) for cell in row.split(",")],
                                       [float(cell) for cell in wanted_row.split(",")], rtol=1e-5)  # fmt: skip


def test_every_reader_reads_it(kept: Path):
    statuses = [run_dir.read_status(kept / f"job-{i}") if state else {} for i, state in enumerate(STATES)]
    assert [status.get("state") for status in statuses] == STATES
    sweep = aggregate.read([kept])
    assert sweep.left_out == [] and len(sweep.runs) == 5 and len(sweep.copies) == 2
    assert sorted(sweep.runs.outcome.map(str)) == ["diverged", "ok", "ok", "ok", "stopped"]
    assert [Path(path).name for path, _ in sweep.unfinished] == ["job-7", "job-6"]


def test_it_is_resumed_to_the_same_figures_and_keeps_its_run_ids(kept: Path):
    before = {run.name: run_dir.read_status(run)["run_id"] for run in run_dir.find_runs(kept)}
    resume.resume(kept, [])
    assert_as_expected(kept, EXPECTED["resumed"])
    after = {run.name: run_dir.read_status(run)["run_id"] for run in run_dir.find_runs(kept)}
    assert before.items() <= after.items()
    for record in (kept / "job-6" / run_dir.STATUS, kept / asked.JOBS):  # what is written names its version
        assert sealed.read_record(record)[migrations.KEY] == migrations.VERSION
    assert sealed.read_record(kept / asked.JOBS)["pid"] == os.getpid()


def test_its_finished_runs_are_given_more_epochs(kept: Path):
    resume.resume(kept, [])
    resume.resume(kept, ["epochs=9"])
    assert_as_expected(kept, EXPECTED["extended to 9 epochs"])


def test_a_finished_run_that_older_code_lost_by_extending_it_is_found_again(kept: Path):
    """It marked the run as running, with more epochs to train, and was killed before the first of them ended."""
    status = sealed.read_record(kept / "job-4" / run_dir.STATUS)
    status |= {"state": "running", "outcome": None, "finished": None, "pid": 2**22 + 1, "host": "elsewhere"}
    status["settings"]["epochs"] = 9
    del status["stateful"]
    lines = (kept / "job-4" / run_dir.METRICS).read_text().splitlines()
    sealed.write_record(kept / "job-4" / run_dir.STATUS, status)
    resume.resume(kept / "job-4", [])
    assert (kept / "job-4" / run_dir.METRICS).read_text().splitlines()[: len(lines)] == lines
    rows = [line.rsplit(",", 1)[0] for line in (kept / "job-4" / run_dir.METRICS).read_text().splitlines()]
    assert len(rows) == len(EXPECTED["extended to 9 epochs"]["job-4"]["rows"])


def test_its_weights_stay_those_of_their_epoch_when_a_later_checkpoint_is_damaged(kept: Path):
    run = config.from_settings(run_dir.read_status(kept / "job-4")["settings"])
    run.epochs = 9
    train(kept, {"job-4": run}, stop_after=3, more_epochs=True)
    assert len((kept / "job-4" / run_dir.METRICS).read_text().splitlines()) > 1 + 7
    (kept / "job-4" / run_dir.CHECKPOINT).write_bytes(b"damaged")
    standing = run_dir.standing(kept / "job-4")
    assert len(standing.lines) == 6 and standing.source == kept / "job-4" / run_dir.WEIGHTS
    resume.resume(kept / "job-4", [])
    rows = [line.rsplit(",", 1)[0] for line in (kept / "job-4" / run_dir.METRICS).read_text().splitlines()]
    expected = EXPECTED["extended to 9 epochs"]["job-4"]["rows"]
    for row, wanted in zip(rows[1:], expected[1:], strict=True):
        np.testing.assert_allclose([float(c) for c in row.split(",")], [float(c) for c in wanted.split(",")], rtol=1e-5)


@pytest.mark.parametrize("job", ["job-0", "job-2", "job-4"])
def test_it_predicts(kept: Path, job: str):
    found = predictor.load(kept / job)
    logits_NC = found.logits(np.zeros((2, 3, 6, 6), np.uint8))
    assert logits_NC.shape == (2, 12) and torch.isfinite(logits_NC).all() and len(found.trained_on.classes) == 12


def test_the_settings_of_today_give_its_run_id(kept: Path):
    status = run_dir.read_status(kept / "job-6")
    run = config.from_settings(status["settings"])
    run.engine = "stacked"  # as it was resolved
    assert run.id(status["data"]["fingerprint"]) == status["run_id"]


def test_settings_that_an_older_record_lacks_are_filled_in(kept: Path):
    for record in (kept / "job-6" / run_dir.STATUS, kept / asked.JOBS):
        content = sealed.read_record(record)
        for settings in [content["settings"]] if "settings" in content else content["jobs"].values():
            for key in ("on_divergence", "augment", "dry_run", "fail_fast"):
                del settings[key]
        sealed.write_record(record, content)
    status = run_dir.read_status(kept / "job-6")
    assert status["settings"] == asdict(config.from_settings(status["settings"]))
    resume.resume(kept, [])
    assert_as_expected(kept, EXPECTED["resumed"])


def test_a_set_whose_md5_was_text_is_resumed():
    settings = asdict(make_run("dataset=tiny_imagenet"))
    for key in ("download", "resize", "interpolation", "color", "on_error"):
        del settings["dataset"][key]
    settings["dataset"] |= {"md5": "90528d7ca1a48142e341f4ef8d21d0de", "url": "http://x.invalid/a.zip"}
    run = config.from_settings(migrations.settings(settings, 1))
    assert isinstance(run.dataset, config.Pictures)
    assert (run.dataset.md5, run.dataset.url, run.dataset.resize) == ({}, None, "crop")


def test_a_setting_that_a_migration_adds_changes_no_run_id(monkeypatch: pytest.MonkeyPatch):
    """augment.flip in the part of a setting that version 3 added: the run_ids of version 2 know nothing of it."""
    run = make_run(*SMALL)
    settings: dict[str, Any] = run.settings() | {"dataset": "f"}
    del settings["augment"]["flip"]
    of_version_2 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    added = migrations.Migration({"augment.flip": False})
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS | {3: added})
    monkeypatch.setattr(migrations, "VERSION", 3)
    assert run.id("f") == of_version_2
    recorded = asdict(run)
    del recorded["augment"]["flip"]
    assert migrations.settings(recorded, 2) == asdict(run)
    run.augment.flip = True  # another value is another run
    assert run.id("f") != of_version_2


@pytest.mark.parametrize(("version", "said"), [(migrations.VERSION + 1, "newer"), ("2", "no"), (0, "no"), (True, "no")])
def test_a_record_of_another_version_is_refused_by_name(tmp_path: Path, version: object, said: str):
    sealed.write_record(tmp_path / run_dir.STATUS, {"state": "finished", migrations.KEY: version})
    with pytest.raises(ValueError, match=f"status.json: .*{said}"):
        run_dir.read_status(tmp_path)
    sealed.write_record(tmp_path / asked.JOBS, {"jobs": {}, migrations.KEY: version})
    with pytest.raises(ValueError, match=f"jobs.json: .*{said}"):
        asked.jobs(tmp_path)


def test_other_pictures_are_not_trained_on(kept: Path):
    """A run continues on the pictures that it began with, or not at all."""
    status = sealed.read_record(kept / "job-6" / run_dir.STATUS)
    status["data"]["fingerprint"] = "0" * 64
    sealed.write_record(kept / "job-6" / run_dir.STATUS, status)
    before = (kept / "job-6" / run_dir.METRICS).read_bytes()
    with pytest.raises(SystemExit):
        resume.resume(kept / "job-6", [])
    assert "other pictures" in run_dir.read_status(kept / "job-6")["reason"]
    assert (kept / "job-6" / run_dir.METRICS).read_bytes() == before
    assert plan.job(config.from_settings(status["settings"]), kept / "job-6").standing.lines
