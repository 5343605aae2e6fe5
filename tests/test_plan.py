import dataclasses
from pathlib import Path

import pytest

from mlp_sweep import plan
from mlp_sweep.plan import Job

PLENTY = 2**40


def jobs(*runs) -> list[Job]:
    return [Job(run, Path(str(number))) for number, run in enumerate(runs)]


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


def test_every_job_is_planned_once_whatever_the_limit(small_run):
    runs = jobs(*(small_run(f"seed={seed}") for seed in range(10)))
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
    runs = jobs(*(small_run(f"seed={seed}") for seed in range(10)))
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
