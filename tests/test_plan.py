import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_run

from mlp_sweep import config, machine, plan, properties
from mlp_sweep.engines import StackedEngine
from mlp_sweep.plan import Job, Stack
from mlp_sweep.run_dir import Standing

PLENTY = 2**40


def jobs(*runs) -> list[Job]:
    return [Job(run, Path(str(number))) for number, run in enumerate(runs)]


def seeds(run: config.Run, count: int) -> list[config.Run]:
    return [dataclasses.replace(run, seed=seed) for seed in range(count)]


def test_equal_runs_train_once_and_all_keep_their_directory(small_run):
    sweep = [small_run(f"activation={a}", f"activation.r={r}") for a in ("relu", "scaled") for r in (2, 62)]
    [stack] = plan.stacks(jobs(*sweep), None, PLENTY)
    assert [[path.name for path in member.paths] for member in stack.members] == [["0", "1"], ["2"], ["3"]]


@pytest.mark.parametrize("differing", ["seed=1", "optimizer.lr=0.5", "activation.r=3"])
def test_slope_rate_and_seed_differ_inside_a_stack(small_run, differing: str):
    pair = small_run("activation=scaled"), small_run("activation=scaled", differing)
    assert len(plan.stacks(jobs(*pair), None, PLENTY)) == 1


@pytest.mark.parametrize(
    "differing",
    ["data_seed=1", "batch_size=32", "epochs=4", "model.hidden=[5]", "optimizer.momentum=0.9", "dataset.image_size=9",
     "matmul_precision=high", "engine=reference"],
)  # fmt: skip
def test_all_else_does_not(small_run, differing: str):
    assert len(plan.stacks(jobs(small_run(), small_run(differing)), None, PLENTY)) == 2


PER_MEMBER = {"seed", "optimizer.lr", "activation.r", "activation.name"}
FAMILY = {"relu": {"family": "another"}}  # of the activation that is registered beside relu


def leaves(settings: dict, prefix: str = "") -> list[str]:
    """Every setting by its key."""
    return [
        key
        for name, value in settings.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])
    ]


def changed(settings: Any, key: str) -> Any:
    """A copy with another value of the same kind under that key."""
    name, _, rest = key.partition(".")
    value = getattr(settings, name)
    if rest:
        return dataclasses.replace(settings, **{name: changed(value, rest)})
    other = {bool: lambda: not value, str: lambda: f"{value} other", list: lambda: [*value, 5]}
    return dataclasses.replace(settings, **{name: other.get(type(value), lambda: value + 1)()})


def test_members_of_a_stack_have_every_other_setting_in_common(monkeypatch: pytest.MonkeyPatch):
    for registry, name in (
        (properties.ACTIVATIONS, "relu"),
        (properties.MODELS, "mlp"),
        (properties.OPTIMIZERS, "sgd"),
    ):
        monkeypatch.setitem(registry, f"{name} other", dataclasses.replace(registry[name], **FAMILY.get(name, {})))
    run = make_run()
    keys = leaves(run.settings())
    assert len(keys) > 20 and set(keys) >= PER_MEMBER
    for key in keys:
        pair = jobs(run, changed(run, key))
        together = len(plan.stacks(pair, None, PLENTY)) == 1
        assert together == (key in PER_MEMBER - {"activation.name"}), key
    activations = [
        dataclasses.replace(run, activation=config.Activation(name, 2.0)) for name in ("scaled", "relu", "relu other")
    ]
    assert names(plan.stacks(jobs(*activations), None, PLENTY)) == [["0", "1"], ["2"]]


def test_every_job_is_planned_once_whatever_the_limit(small_run):
    runs = jobs(*seeds(small_run(), 10))
    for limit in (1, 3, 4, 10, 99, None):
        planned = plan.stacks(runs, limit, PLENTY)
        assert all(len(stack.members) <= (limit or 10) for stack in planned)
        assert sorted(path.name for s in planned for m in s.members for path in m.paths) == sorted(map(str, range(10)))
    assert [len(stack.members) for stack in plan.stacks(runs, 4, PLENTY)] == [4, 3, 3]


def test_neighbours_are_dealt_to_different_stacks(small_run):
    """One core must not get all slopes that diverge."""
    runs = jobs(*(small_run("activation=scaled", f"activation.r={r}") for r in (2, 3, 62, 63)))
    slopes = [[m.run.activation.r for m in s.members] for s in plan.stacks(runs, None, PLENTY, at_once=2)]
    assert slopes == [[2, 62], [3, 63]]


def test_a_group_too_large_for_memory_is_split(small_run):
    runs = jobs(*seeds(small_run(), 10))
    one = plan.member_bytes(runs[0].run)
    planned = plan.stacks(runs, None, int(5 * one / plan.FREE_SHARE))
    assert [len(stack.members) for stack in planned] == [5, 5]
    assert all(stack.bytes <= 5 * one for stack in planned)
    assert len(plan.stacks(runs, None, 0)) == 10  # one at a time has to be tried


def test_reference_engine_trains_one_at_a_time(small_run):
    planned = plan.stacks(jobs(*(small_run("engine=reference", f"seed={s}") for s in (0, 1))), None, PLENTY)
    assert [(len(stack.members), stack.stackable) for stack in planned] == [(1, False), (1, False)]


def test_what_cannot_be_planned_is_refused(small_run):
    with pytest.raises(ValueError, match="max_members"):
        plan.stacks(jobs(small_run()), 0, PLENTY)
    run = small_run("engine=stacked")
    other = dataclasses.replace(run, model=dataclasses.replace(run.model, name="cnn"))
    with pytest.raises(ValueError, match="engine=stacked"):
        plan.stacks(jobs(other), None, PLENTY)


def test_listing_names_stacks_members_equal_ones_and_memory(small_run):
    sweep = jobs(small_run("activation.r=2"), small_run("activation.r=3"), small_run("seed=1"))
    planned = plan.stacks(sweep, None, PLENTY)
    text = plan.listing(planned)
    assert "stack 1: 2 members" in text and "MB" in text and "equal: 1" in text
    assert plan.describe(planned, sweep).startswith("3 jobs: 2 distinct runs, 1 equal to another")


def standing(epochs: int, diverged_at: int | None = None) -> Standing:
    return Standing([f"{epoch},0.5" for epoch in range(1, epochs + 1)], diverged_at=diverged_at)


def names(planned: list[Stack]) -> list[list[str]]:
    return [[path.name for member in stack.members for path in member.paths] for stack in planned]


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 3))))
def test_of_equal_jobs_the_one_that_came_furthest_goes_on(small_run, order: tuple[int, ...]):
    run = small_run("epochs=4")
    [stack] = plan.stacks([Job(run, Path(str(epochs)), standing(epochs)) for epochs in order], None, PLENTY)
    [member] = stack.members
    assert member.paths[0].name == "3" and member.epoch == 3 and len(member.jobs) == 3


def test_members_of_a_stack_are_after_the_same_epoch(small_run):
    sweep = [Job(run, Path(str(n)), standing(n % 2)) for n, run in enumerate(seeds(small_run(), 4))]
    assert names(plan.stacks(sweep, None, PLENTY)) == [["0", "2"], ["1", "3"]]


@pytest.mark.parametrize(
    ("on_divergence", "expected"), [("stop", [["0", "2"], ["1"]]), ("continue", [["0", "1", "2"]])]
)
def test_what_has_no_epoch_left_is_not_stacked_with_what_has(small_run, on_divergence: str, expected: list[list[str]]):
    """Of runs after the same epoch, those that diverged and stop are over; they would train on with the others."""
    runs = seeds(small_run(f"on_divergence={on_divergence}"), 3)
    ends = enumerate(zip(runs, (None, 5, None), strict=True))
    sweep = [Job(run, Path(str(n)), standing(1, diverged_at)) for n, (run, diverged_at) in ends]
    planned = plan.stacks(sweep, None, PLENTY)
    assert names(planned) == expected
    assert [stack.over for stack in planned] == [False, True][: len(expected)]


@pytest.mark.parametrize(("epochs", "over"), [(2, False), (3, True)])
def test_a_member_is_over_after_its_last_epoch(small_run, epochs: int, over: bool):
    [stack] = plan.stacks([Job(small_run("epochs=3"), Path("a"), standing(epochs))], None, PLENTY)
    assert stack.over is over and stack.epoch == epochs


@pytest.mark.parametrize(("momentum", "nesterov"), [(0, False), (0.9, False), (0.9, True)])
def test_memory_is_what_the_engine_holds(small_run, momentum: float, nesterov: bool):
    run = small_run(f"optimizer.momentum={momentum}", f"optimizer.nesterov={nesterov}", "batch_size=32")
    engine = StackedEngine([run], 3 * 8 * 8, 12, torch.device("cpu"))
    parameters = sum(weight.numel() for weight in engine.weights(0).values())
    kept = sum(value.numel() for value in engine.state(0).values())
    assert kept == (1 + (momentum > 0)) * parameters
    step = 3 * parameters if nesterov else 0  # what its step holds besides: the buffer before, and two terms of the sum
    layers = 3 * 32 * (64 + 128 + 12)  # z, h and dz of each
    assert plan.member_bytes(run) == 4 * (kept + step + layers)


def test_memory_of_a_member_counts_the_channels_and_classes_of_its_data():
    of = ("dataset=image_folder", "dataset.root=x", "dataset.image_size=8", "model=linear", "batch_size=1")
    rgb, grey = (
        plan.member_bytes(make_run(*of, "dataset.num_classes=5", f"dataset.color={c}")) for c in ("rgb", "grey")
    )
    assert rgb - grey == 4 * 5 * 2 * 8 * 8
    unknown = make_run(*of, "dataset.num_classes=null")
    assert plan.member_bytes(unknown) > plan.member_bytes(unknown, unknown_classes=999) > rgb


@pytest.mark.parametrize(
    ("missing", "at_once", "sizes"),
    [(0, 1, [10, 10]), (2, 1, [7, 7, 6]), (0, 2, [5, 5, 5, 5]), (2, 2, [4, 4, 4, 4, 4]), (0, 4, [2] * 10)],
)
def test_stacks_at_once_share_the_memory(small_run, missing: int, at_once: int, sizes: list[int]):
    """With room for ten members in all, or a byte less."""
    runs = jobs(*seeds(small_run(), 20))
    room = int(10 * plan.member_bytes(runs[0].run) / plan.FREE_SHARE) - missing
    assert [len(stack.members) for stack in plan.stacks(runs, None, room, at_once)] == sizes


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [4, 4]), (2, [4, 4]), (3, [2, 2, 2, 2]), (4, [2, 2, 2, 2])])
def test_there_are_as_many_stacks_as_can_be_busy_and_no_more(small_run, at_once: int, sizes: list[int]):
    runs = jobs(*seeds(small_run("batch_size=32"), 4), *seeds(small_run(), 4))
    assert [len(stack.members) for stack in plan.stacks(runs, None, PLENTY, at_once)] == sizes


@pytest.mark.parametrize("missing", [0, 1])
def test_a_run_larger_than_the_machine_is_refused(small_run, monkeypatch: pytest.MonkeyPatch, missing: int):
    run = small_run("model.hidden=[5000]")
    monkeypatch.setattr(machine, "total_memory", lambda: plan.member_bytes(run) - missing)
    if missing:
        with pytest.raises(ValueError, match=r"model.hidden=\[5000\]: too large"):
            plan.stacks(jobs(run), None, PLENTY)
    else:
        assert len(plan.stacks(jobs(run), None, PLENTY)) == 1
