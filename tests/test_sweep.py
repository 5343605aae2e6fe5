"""Records of runs trained alone, together, in any order, and of those that fail."""

import json
import math
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ABSENT_DEVICE
from safetensors.numpy import load_file

from mlp_sweep import events, machine, plan, record, resume, run_dir, sweep, workers
from mlp_sweep.engines import kernels
from mlp_sweep.workers import Workers

PLENTY = 2**40


def train(root: Path, runs: dict, max_members: int | None = None, workers: int = 1) -> dict[str, record.Result]:
    jobs = [plan.job(run, root / name) for name, run in runs.items()]
    planned = plan.stacks(jobs, max_members, PLENTY, workers)
    results = {result.path: result for result in Workers(workers=workers).train(planned)}
    return {name: results[root / name] for name in runs}


def without_seconds(path: Path) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in (path / run_dir.METRICS).read_text().splitlines()]


@pytest.fixture
def runs(small_run) -> dict:
    return {
        "relu": small_run("activation=relu"),
        "relu again": small_run("activation=relu", "activation.r=9"),
        "two": small_run("activation=scaled", "activation.r=2", "seed=4"),
        "wild": small_run("activation=scaled", "activation.r=1e6"),
        "quick": small_run("optimizer.lr=0.1"),
    }


def test_alone_or_stacked_in_any_order_a_run_leaves_the_same(tmp_path: Path, runs):
    train(tmp_path / "together", runs)
    train(tmp_path / "backwards", dict(reversed(runs.items())), max_members=3)
    train(tmp_path / "dealt", runs, workers=2)
    for name, run in runs.items():
        train(tmp_path / "alone", {name: run})
        for other in ("together", "backwards", "dealt"):
            assert without_seconds(tmp_path / "alone" / name) == without_seconds(tmp_path / other / name)
            weights = [(tmp_path / where / name / run_dir.WEIGHTS).read_bytes() for where in ("alone", other)]
            assert weights[0] == weights[1]


def test_records_are_whole(tmp_path: Path, runs):
    results = train(tmp_path, runs)
    ok = run_dir.read_status(tmp_path / "two")
    assert (ok["state"], ok["outcome"], ok["epoch"], ok["engine"], ok["members"]) == ("finished", "ok", 3, "stacked", 4)
    assert ok["versions"]["torch"] and ok["started"] < ok["finished"] and ok["same_as"] is None
    assert [ok["data"][key] for key in ("name", "classes", "train", "val", "skipped")] == ["synthetic", 12, 132, 60, 0]
    columns, rows = run_dir.read_metrics(tmp_path / "two")
    assert columns[1:5] == list(run_dir.FIGURES)
    assert columns[5:] == ["grad_norm", "dead_1", "dead_2", "seconds"]
    assert [row[0] for row in rows] == [1, 2, 3]
    assert ok["final"]["val_accuracy"] == rows[-1][4] == results["two"].objective
    assert load_file(tmp_path / "two" / run_dir.WEIGHTS)["layers.0.weight"].shape == (64, 192)
    assert (tmp_path / "two" / run_dir.LOG).read_text().count("[INFO] epoch ") == 3


def test_equal_runs_say_whose_numbers_they_are(tmp_path: Path, runs):
    train(tmp_path, runs)
    first, again = (run_dir.read_status(tmp_path / name) for name in ("relu", "relu again"))
    assert again["same_as"] == "relu" and again["run_id"] == first["run_id"]
    assert without_seconds(tmp_path / "relu") == without_seconds(tmp_path / "relu again")


def test_a_diverged_run_is_a_result(tmp_path: Path, runs):
    results = train(tmp_path, runs)
    status = run_dir.read_status(tmp_path / "wild")
    assert (status["state"], status["outcome"], status["epoch"]) == ("finished", "diverged", 1)
    assert "step" in status["reason"] and results["wild"].objective == 0.0
    json.loads((tmp_path / "wild" / run_dir.STATUS).read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert run_dir.read_status(tmp_path / "quick")["outcome"] == "ok"


@pytest.mark.parametrize(("on_divergence", "epochs"), [("stop", 1), ("continue", 3)])
def test_every_member_ends_once(tmp_path: Path, small_run, on_divergence: str, epochs: int):
    common = f"on_divergence={on_divergence}"
    runs = [small_run(common), small_run(common, "activation=scaled", "activation.r=1e6")]
    [stack] = plan.stacks([plan.Job(run, tmp_path / str(n)) for n, run in enumerate(runs)], None, PLENTY)
    happened = list(workers.events(stack))
    assert sorted(event.member for event in happened if isinstance(event, events.Ended)) == [0, 1]
    trained = [event.row.member for event in happened if isinstance(event, events.Epoch)]
    assert [trained.count(member) for member in (0, 1)] == [3, epochs]


def test_one_that_fails_keeps_no_other_back(tmp_path: Path, small_run):
    results = train(tmp_path, {"good": small_run(), "bad": small_run(ABSENT_DEVICE)})
    assert results["good"].error is None and isinstance(results["bad"].error, ValueError)
    status = run_dir.read_status(tmp_path / "bad")
    assert status["state"] == "failed" and ABSENT_DEVICE in status["reason"]
    assert "Traceback" in (tmp_path / "bad" / run_dir.LOG).read_text()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_what_ends_before_it_began_can_be_resumed(tmp_path: Path, small_run, raised: type[BaseException]):
    def happenings() -> Generator[events.Event]:
        yield from ()
        raise raised

    run = small_run()
    [stack] = plan.stacks([plan.job(run, tmp_path / "run")], None, PLENTY)
    with suppress(KeyboardInterrupt):
        list(record.record(stack, happenings()))
    settings = run_dir.read_status(tmp_path / "run")["settings"]
    assert resume.job(tmp_path / "run", settings, []).run == run


def test_another_runs_directory_is_refused_and_left_as_it_is(tmp_path: Path, small_run):
    train(tmp_path, {"run": small_run()})
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="seed: 0 there, 1 asked for"):
        train(tmp_path, {"run": small_run("seed=1")})
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_reference_and_stacked_engines_agree_on_a_whole_run(tmp_path: Path, small_run):
    results = train(tmp_path, {"stacked": small_run(), "reference": small_run("engine=reference")})
    figures = [run_dir.read_metrics(tmp_path / name)[1] for name in results]
    for ours, theirs in zip(*figures, strict=True):
        assert ours[1:-1] == pytest.approx(theirs[1:-1], rel=1e-3)
    assert run_dir.read_status(tmp_path / "reference")["engine"] == "reference"


def test_models_of_both_engines_train_side_by_side(tmp_path: Path, small_run):
    runs = {name: small_run(f"model={name}") for name in ("mlp", "linear", "cnn")}
    results = train(tmp_path, runs)
    assert not any(result.error for result in results.values())
    columns, rows = run_dir.read_metrics(tmp_path / "cnn")
    assert columns[5:] == ["grad_norm", "dead_1", "dead_2", "dead_3", "seconds"] and len(rows) == 3
    assert all(math.isfinite(figure) for row in rows for figure in row)
    assert run_dir.read_metrics(tmp_path / "linear")[0][5:] == ["grad_norm", "seconds"]


@pytest.mark.parametrize(
    ("precision", "stackable", "products", "threads"),
    [
        ("highest", True, kernels.PerMemberTiled(), 1),
        ("highest", True, kernels.PerMemberOneDNN(), 1),
        ("highest", True, kernels.PerMember(), 3),  # whose bits depend on the number of threads
        ("high", True, kernels.PerMemberTiled(), 3),
        ("highest", False, kernels.PerMemberTiled(), 3),
    ],
)
def test_cores_are_shared_only_where_no_bit_depends_on_it(
    small_run,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    stackable: bool,
    products: kernels.Products,
    threads: int,
):
    monkeypatch.setattr(machine, "cores", lambda: 3)
    monkeypatch.setattr(kernels, "choose", lambda device: products)
    before = torch.get_num_threads()
    try:
        member = plan.Member(small_run(f"matmul_precision={precision}"), [])
        sweep.share_threads(plan.Stack([member], stackable), 1)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "device"),
    [
        (True, True, "auto", "cuda"), (False, True, "auto", "mps"), (False, False, "auto", "cpu"),
        (True, True, "cpu", "cpu"), (True, True, "mps", "mps"), (False, True, "cuda", None), (True, False, "mps", None),
        (True, True, "tpu", None),
    ],
)  # fmt: skip
def test_a_device_is_taken_or_refused_by_name(monkeypatch, cuda: bool, mps: bool, name: str, device: str | None):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if device is None:
        with pytest.raises(ValueError, match=f"device={name}: "):
            sweep.find_device(name)
    else:
        assert sweep.find_device(name).type == device
