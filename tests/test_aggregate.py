"""Run directories to frames: what is read, what is left out and why, and what makes a label."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
from made_up import LEAKY, NAN, write_run

from mlp_sweep import aggregate, asked, properties, run_dir


def test_only_settings_that_differ_become_labels(tmp_path: Path):
    write_run(tmp_path / "a", "relu", lr=0.01)
    write_run(tmp_path / "b", "scaled", 2.0, lr=0.01)
    write_run(tmp_path / "c", "scaled", 2.0, lr=0.1)
    sweep = aggregate.read([tmp_path])
    assert sweep.varied == ["activation.name", "activation.r", "optimizer.lr"]
    assert sweep.configurations == ["relu lr=0.01", "scaled r=2 lr=0.01", "scaled r=2 lr=0.1"]
    assert sweep.epochs["optimizer.lr"].dtype == float and sweep.epochs["epoch"].dtype == int


@pytest.mark.parametrize("settings, label", [
    ({"model": {"name": "mlp", "hidden": [32]}}, "hidden=32"),
    ({"batch_size": 16}, "batch_size=16"),
    ({"dataset": {"name": "other", "num_classes": 10, "image_size": 4}}, "other"),
])  # fmt: skip
def test_a_setting_is_named_by_its_last_word_and_what_the_data_set_decides_is_not(
    tmp_path: Path, settings: dict, label: str
):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", settings=settings)
    assert label in aggregate.read([tmp_path]).configurations


def test_other_pictures_under_the_same_settings_are_another_configuration(tmp_path: Path):
    write_run(tmp_path / "a")
    data = {"name": "made_up", "fingerprint": "0123456789", "classes": 10}
    write_run(tmp_path / "b", status={"data": data, "run_id": "other"})
    assert aggregate.read([tmp_path]).configurations == ["data=012345", "data=ffffff"]


def test_equal_runs_are_counted_once_and_named(tmp_path: Path):
    write_run(tmp_path / "a", val_accuracy=[0.1, 0.2])
    write_run(tmp_path / "b", val_accuracy=[0.1, 0.2], status={"same_as": "a"})
    sweep = aggregate.read([tmp_path])
    assert len(sweep.runs) == 1 and len(sweep.epochs) == 2
    assert sweep.copies == [(str(tmp_path / "b"), str(tmp_path / "a"))]


def test_of_equal_runs_the_one_that_ended_counts(tmp_path: Path):
    write_run(tmp_path / "a", outcome="running", status={"run_id": "same"}, val_accuracy=[0.1])
    write_run(tmp_path / "b", outcome="ok", status={"run_id": "same"}, val_accuracy=[0.1, 0.2])
    sweep = aggregate.read([tmp_path])
    assert sweep.runs.outcome.tolist() == ["ok"] and len(sweep.epochs) == 2 and not sweep.left_out


def test_paths_overlap_and_globs_expand(tmp_path: Path):
    write_run(tmp_path / "one" / "a", seed=0)
    write_run(tmp_path / "two" / "a", seed=1)
    assert len(aggregate.read([tmp_path, tmp_path / "one", tmp_path / "one" / "a"]).runs) == 2
    assert len(aggregate.read([tmp_path / "*" / "a"]).runs) == 2


def test_figures_come_back_as_they_were_written(tmp_path: Path):
    losses = [1 / 3, 2.5e-300, 1e300]
    write_run(tmp_path / "a", train_loss=losses, val_accuracy=[0.1, 0.2, 0.3])
    assert aggregate.read([tmp_path]).epochs.train_loss.tolist() == losses


def test_runs_with_other_columns_are_read_together(tmp_path: Path):
    write_run(tmp_path / "a", columns={"dead_1": [0.0, 0.5], "grad_norm": [1.0, 2.0]})
    write_run(tmp_path / "b", seed=1)
    epochs = aggregate.read([tmp_path]).epochs
    assert epochs.dead_1.tolist()[:2] == [0.0, 0.5] and epochs.grad_norm.isna().sum() == 2


def _damage(folder: Path, how: str) -> str:
    """Damages a run; returns a part of the reason expected."""
    metrics, status = folder / run_dir.METRICS, folder / run_dir.STATUS
    record = json.loads(status.read_text())
    lines = metrics.read_text().splitlines(keepends=True)

    def rewrite(**changes: object) -> None:
        status.write_text(json.dumps(record | changes))

    match how:
        case "no metrics":
            metrics.unlink()
            return "unreadable"
        case "empty metrics":
            metrics.write_text("")
            return "not the records of a run"
        case "foreign metrics":
            metrics.write_text("name,price\nbread,2\n")
            return "not the records of a run"
        case "truncated metrics":
            metrics.write_text("".join(lines[:-1]))
            return "truncated, 1 of 2 epochs"
        case "cut in a row":
            metrics.write_text("".join(lines)[:-3])
            return "truncated, 1 of 2 epochs"
        case "no losses":
            metrics.write_text("".join(lines).replace("train_loss", "train_cost"))
            return "no column train_loss"
        case "short row":
            metrics.write_text("".join([*lines[:-1], "2,0.5\n"]))
            return "2 cells for 6 columns"
        case "words for numbers":
            metrics.write_text("".join(lines).replace("0.2", "<b>"))
            return "could not convert"
        case "an epoch twice":
            metrics.write_text("".join([*lines, lines[-1]]))
            return "epoch 2 where epoch 3 should be"
        case "bytes for text":
            metrics.write_bytes(b"\xff\xfe\x00")
            return "unreadable"
        case "status is no JSON":
            status.write_text("{")
            return "status.json: unreadable"
        case "status nested without end":
            status.write_text("[" * 100_000)
            return "status.json: unreadable"
        case "status is a list":
            status.write_text("[]")
            return "no JSON object"
        case "no settings":
            status.write_text('{"state": "finished"}')
            return "no settings in it"
        case "foreign outcome":
            rewrite(outcome="splendid")
            return "outcome is 'splendid'"
        case "lr is a word":
            rewrite(settings=record["settings"] | {"optimizer": {"name": "sgd", "lr": "high"}})
            return "optimizer.lr is 'high', not a number"
        case "no classes":
            rewrite(data=record["data"] | {"classes": 0})
            return "data.classes is 0, not a number of classes"
        case "no activation":
            rewrite(settings=record["settings"] | {"activation": {"r": 1.0}})
            return "activation.name is None, not a name"
        case _:
            rewrite(data=None)
            return "data.classes is None"


@pytest.mark.parametrize("how", [
    "no metrics", "empty metrics", "foreign metrics", "truncated metrics", "cut in a row", "no losses", "short row",
    "words for numbers", "an epoch twice", "bytes for text", "status is no JSON", "status nested without end",
    "status is a list", "no settings", "foreign outcome", "lr is a word", "no activation", "no data",
    "no classes",
])  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_reason_and_the_rest_is_read(tmp_path: Path, how: str):
    write_run(tmp_path / "good")
    reason = _damage(write_run(tmp_path / "bad", seed=1), how)
    sweep = aggregate.read([tmp_path])
    assert len(sweep.runs) == 1
    [(path, said)] = sweep.left_out
    assert path == str(tmp_path / "bad") and reason in said


@pytest.mark.parametrize("outcome", ["running", "stopped", "failed"])
def test_a_run_that_did_not_end_is_named(tmp_path: Path, outcome: str):
    write_run(tmp_path / "a", outcome=outcome, val_accuracy=[0.1])
    sweep = aggregate.read([tmp_path])
    [(_, said)] = sweep.unfinished
    assert sweep.runs.outcome.tolist() == [outcome] and "after epoch 1 of 4" in said and not sweep.left_out


def test_a_run_that_failed_before_it_began_is_named_with_its_reason(tmp_path: Path):
    write_run(tmp_path / "good")
    write_run(
        tmp_path / "bad", seed=1, outcome="failed", val_accuracy=[], status={"data": None, "reason": "no such set"}
    )
    sweep = aggregate.read([tmp_path])
    assert len(sweep.runs) == 1
    assert sweep.unfinished == [(str(tmp_path / "bad"), "failed before it began: no such set")]


def test_jobs_that_were_asked_for_and_have_no_record_are_named(tmp_path: Path):
    write_run(tmp_path / "a")
    asked.sweep(tmp_path, {tmp_path / name: {} for name in ("a", "b")})
    assert aggregate.read([tmp_path]).unfinished == [(str(tmp_path / "b"), "not started yet")]
    ended = subprocess.Popen(["true"])
    ended.wait()
    record = {"jobs": {"b": {}}, "pid": ended.pid, "host": socket.gethostname()}
    (tmp_path / asked.JOBS).write_text(json.dumps(record))
    assert aggregate.read([tmp_path]).unfinished == [(str(tmp_path / "b"), "never started")]


def test_equal_settings_with_other_figures_are_not_said_to_be_the_same(tmp_path: Path):
    write_run(tmp_path / "a", val_accuracy=[0.1, 0.2])
    write_run(tmp_path / "b", val_accuracy=[0.1, 0.6])
    sweep = aggregate.read([tmp_path])
    assert not sweep.copies and len(sweep.runs) == 1
    assert sweep.left_out == [(str(tmp_path / "b"), f"other figures than {tmp_path / 'a'} under the same settings")]


def test_a_data_seed_that_goes_with_the_seed_is_part_of_the_replicate(tmp_path: Path):
    for seed in range(3):
        for r in (2.0, 4.0):
            data = {"name": "made_up", "fingerprint": f"{seed}" * 16, "classes": 10, "train": 6, "val": 6}
            write_run(tmp_path / f"{r} {seed}", "scaled", r, seed, settings={"data_seed": seed}, status={"data": data})
    assert aggregate.read([tmp_path]).configurations == ["scaled r=2", "scaled r=4"]
    write_run(tmp_path / "more", "scaled", 2.0, 0, settings={"data_seed": 9})
    assert "data_seed" in aggregate.read([tmp_path]).varied


def test_a_run_still_being_written_is_in_the_curves_and_named(tmp_path: Path):
    write_run(tmp_path / "a", outcome="running", val_accuracy=[0.1, 0.2], settings={"epochs": 20})
    with open(tmp_path / "a" / run_dir.METRICS, "a") as file:
        file.write("3,0.1,0.")
    sweep = aggregate.read([tmp_path])
    assert sweep.epochs.epoch.tolist() == [1, 2]
    assert "still running after epoch 2 of 20" in sweep.unfinished[0][1]


def test_a_folder_without_runs_and_a_missing_one_are_named(tmp_path: Path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "empty").mkdir()
    sweep = aggregate.read([tmp_path / "runs", tmp_path / "empty", tmp_path / "missing"])
    assert sweep.left_out == [(str(tmp_path / "empty"), "no run in it"), (str(tmp_path / "missing"), "no such folder")]


def test_nothing_readable_is_an_error_that_names_every_path(tmp_path: Path):
    with pytest.raises(ValueError, match="missing: no such folder"):
        aggregate.read([tmp_path / "missing"])


def test_names_that_are_no_unicode_can_be_written_out(tmp_path: Path):
    write_run(tmp_path / "a", settings={"dataset": {"name": "half \ud800 pair"}})
    sweep = aggregate.read([tmp_path])
    assert sweep.runs["dataset.name"].map(str.encode).tolist() == [b"half ? pair"]


def test_a_diverged_run_keeps_its_row_without_figures(tmp_path: Path):
    write_run(tmp_path / "a", outcome="diverged", val_accuracy=[0.1, 0.2])
    write_run(tmp_path / "b", outcome="diverged", val_accuracy=[0.1, NAN, NAN], train_loss=[2.0, NAN, NAN], seed=1)
    epochs = aggregate.read([tmp_path]).epochs
    assert epochs.epoch.tolist() == [1, 2, 3, 1, 2]  # one that went on has no more to say either
    assert epochs.train_loss.isna().tolist() == [False, False, True, False, True]


def test_a_run_that_diverged_before_its_first_epoch_ended_and_one_of_no_epochs(tmp_path: Path):
    write_run(tmp_path / "a", outcome="diverged", val_accuracy=[])
    write_run(tmp_path / "b", val_accuracy=[], settings={"epochs": 0})
    sweep = aggregate.read([tmp_path])
    assert len(sweep.runs) == 2 and len(sweep.epochs) == 1


@pytest.mark.parametrize("columns, other", [
    ({"dead_1": [0.0, 0.5]}, {"dead_2": [0.0, 0.5]}),
    ({"dead_1": [0.0, 0.5]}, {}),
    ({}, {"dead_1": [0.0, 0.5]}),
    ({"dead_1": [0.0, 0.5], "dead_2": [0.1, 0.2]}, {"dead_2": [0.1, 0.2], "dead_1": [0.0, 0.5]}),
])  # fmt: skip
def test_equal_settings_with_other_columns_are_not_the_same(tmp_path: Path, columns: dict, other: dict):
    write_run(tmp_path / "a", columns=columns)
    write_run(tmp_path / "b", columns=other)
    sweep = aggregate.read([tmp_path])
    assert not sweep.copies and [path for path, _ in sweep.left_out] == [str(tmp_path / "b")]


@pytest.mark.parametrize("stored", [
    ("collapsed", "training loss 10503983296.00 near ln C, 60% of a hidden layer's units dead"),
    ("ok", None), ("diverged", "loss not finite"),
])  # fmt: skip
def test_an_older_records_outcome_is_judged_again(tmp_path: Path, stored: tuple[str, str | None]):
    status = {"outcome": stored[0], "reason": stored[1]}
    write_run(tmp_path / "a", train_loss=[2.0, 10503983296.0], columns={"dead_1": [0.6, 0.6]}, status=status)
    [run] = aggregate.read([tmp_path]).runs.to_dict("records")
    assert run["outcome"] == "exploded" and "1.1e+10" in run["reason"] and "near" not in run["reason"]


def test_what_was_called_ok_and_has_no_finite_loss_diverged(tmp_path: Path):
    write_run(tmp_path / "a", train_loss=[2.0, NAN], status={"diverged_at": 7})
    write_run(tmp_path / "b", seed=1, train_loss=[2.0, float("inf"), 2.0], val_accuracy=[0.1] * 3)
    sweep = aggregate.read([tmp_path])
    assert sweep.runs.outcome.tolist() == ["diverged"] * 2 and sweep.epochs.epoch.tolist() == [1, 2, 1, 2]
    assert sweep.runs.reason[0] == "a loss became NaN or infinite at step 7 of epoch 2"


@pytest.mark.parametrize("state", ["running", "stopped", "failed"])
def test_a_run_that_has_not_ended_is_not_judged(tmp_path: Path, state: str):
    write_run(tmp_path / "a", train_loss=[2.0, 1e18], outcome=state)
    [run] = aggregate.read([tmp_path]).runs.to_dict("records")
    assert run["outcome"] == state and run["reason"] == f"made up to be {state}"


def test_the_label_of_an_activation_has_its_slope_by_its_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(properties.ACTIVATIONS, "leaky", LEAKY)
    write_run(tmp_path / "a", "leaky", 2.0)
    write_run(tmp_path / "b", "leaky", 1.0)
    write_run(tmp_path / "c")
    write_run(tmp_path / "d", "unknown here", 3.0)
    names = ["relu", "unknown here r=3", "leaky r=1", "leaky r=2"]
    assert aggregate.read([tmp_path]).configurations == names
