"""Jobs to distinct runs to stacks: what a sweep will train, before anything is trained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import config, console, machine, properties, sealed
from .run_dir import CHECKPOINT, STATUS, WEIGHTS, Standing, is_run, read_status, stamp, standing

FREE_SHARE = 0.5  # of the free memory that a stack may take


@dataclass
class Job:
    """A run, the directory that its records go to, and how far they have come."""

    run: config.Run
    path: Path
    standing: Standing = field(default_factory=Standing)
    finished: bool = False
    stamp: bytes = b""  # of its directory when it was looked at
    may_prepare: bool = True  # pictures into data_dir; a record of somebody else's may name any folder
    may_unpack: bool = True  # or fetch the data set into dataset.root


@dataclass
class Member:
    """A distinct run: the jobs that decide the same numbers, the one that came furthest in front."""

    run: config.Run
    jobs: list[Job]
    state: dict[str, Any] | None = None  # arrays to go on from; read when it is the stack's turn

    @property
    def paths(self) -> list[Path]:
        return [job.path for job in self.jobs]

    @property
    def standing(self) -> Standing:
        return self.jobs[0].standing

    @property
    def epoch(self) -> int:
        """Whole epochs behind it."""
        return len(self.standing.lines)

    @property
    def over(self) -> bool:
        """Whether no epoch is left to train."""
        return self.epoch >= self.run.epochs or (_stops(self.run) and self.standing.diverged_at is not None)


@dataclass
class Stack:
    """Members that train together: all but slope, learning rate and seed in common, after the same epoch."""

    members: list[Member]
    stackable: bool  # by the closed-form engine; else one member, through autograd
    place: str = ""  # among the stacks of a sweep

    @property
    def run(self) -> config.Run:
        """What the members have in common."""
        return self.members[0].run

    @property
    def epoch(self) -> int:
        return self.members[0].epoch

    @property
    def over(self) -> bool:
        return self.members[0].over

    @property
    def may_prepare(self) -> bool:
        return all(job.may_prepare for member in self.members for job in member.jobs)

    @property
    def may_unpack(self) -> bool:
        return all(job.may_unpack for member in self.members for job in member.jobs)

    @property
    def name(self) -> str:
        if len(self.members) > 1:
            return f"{self.place}{len(self.members)} runs"
        activation = self.run.activation
        slope = f" r={activation.r:g}" if properties.ACTIVATIONS[activation.name].has_slope else ""
        return f"{self.place}{activation.name}{slope}"

    @property
    def bytes(self) -> int:
        return len(self.members) * member_bytes(self.run)


def stacks(jobs: Sequence[Job], max_members: int | None, free_bytes: int, at_once: int = 1) -> list[Stack]:
    """Unfinished runs, equal ones once, grouped by what cannot differ inside a stack, groups cut to fit memory.

    With several stacks at once, memory is shared among them and there are as many as can be busy.
    """
    if max_members is not None and max_members < 1:
        raise ValueError(f"hydra.launcher.max_members={max_members}: must be 1 or more")
    members: dict[str, Member] = {}
    for job in jobs:
        if job.finished:
            continue
        _check_memory(job.run)
        members.setdefault(_key(job.run), Member(job.run, [])).jobs.append(job)
    for member in members.values():  # the one that came furthest continues for all
        member.jobs.sort(key=lambda job: -len(job.standing.lines))
    groups: dict[str, list[Member]] = {}
    for key, member in members.items():
        group = f"{member.epoch} {member.over} {_common(member.run)}" if stackable(member.run) else key
        groups.setdefault(group, []).append(member)
    planned = []
    for group in groups.values():
        fits = max(1, int(FREE_SHARE * free_bytes / at_once) // member_bytes(group[0].run))
        parts = -(-len(group) // min(fits, max_members or fits))
        parts = min(max(parts, -(-at_once // len(groups))), len(group))
        # Dealt out, since neighbours often share their fate: of a sweep's slopes the last are the first to diverge.
        planned += [Stack(group[part::parts], stackable(group[0].run)) for part in range(parts)]
    for number, stack in enumerate(planned, 1):
        stack.place = f"stack {number}/{len(planned)}, " if len(planned) > 1 else ""
    return planned


def job(run: config.Run, path: Path, more_epochs: bool = False) -> Job:
    """A job as its directory stands. ValueError: it holds another configuration's results, or more epochs than asked.

    more_epochs: the number of epochs may be another than the one recorded.
    """
    seen = stamp(path)
    if not seen:
        return _without_status(run, path)
    try:
        status = read_status(path)
    except sealed.Unreadable:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; without this file the run starts at epoch 1") from error
    theirs = status.get("settings")
    if not isinstance(theirs, dict):
        raise ValueError(f"{path / STATUS}: does not name the settings of its run")
    differing = config.differences(theirs, run, ("epochs",) if more_epochs else ())
    if differing:
        raise ValueError(f"{path}: holds another run's results ({'; '.join(differing)}); choose another directory")
    found = standing(path, status)
    if not found.source:
        _from_its_equal(found, path, status)
    _check_length(run, path, max(len(found.lines), status.get("epoch", 0) if found.ended else 0))
    over = status.get("epoch", 0) >= run.epochs or (_stops(run) and status.get("outcome") == "diverged")
    finished = found.ended and over
    _notice_damage(found, finished)
    return Job(run, path, found, finished, seen)


def _without_status(run: config.Run, path: Path) -> Job:
    """A job that has not begun, or whose status.json is missing beside what it trained."""
    if not any((path / file).exists() for file in (WEIGHTS, CHECKPOINT)):
        return Job(run, path)
    found = standing(path, {})
    _check_length(run, path, len(found.lines))
    console.notice(f"{path / STATUS}: missing; it is written again from the files beside it")
    _notice_damage(found, finished=False)
    return Job(run, path, found)


def _check_length(run: config.Run, path: Path, epochs: int) -> None:
    if epochs > run.epochs:
        raise ValueError(f"epochs={run.epochs}: {path} has {epochs} epochs already; give that many or more")


def _notice_damage(found: Standing, finished: bool) -> None:
    then = f"continues from epoch {len(found.lines) + 1}" if found.lines else "starts again at epoch 1"
    then = "is finished, and can have no more epochs" if finished else then
    for line in found.damage:
        console.notice(f"{line}; the run {then}")


def _from_its_equal(found: Standing, path: Path, status: dict[str, Any]) -> None:
    """What the run that an equal one was trained as has come to: its directory has the checkpoint of both."""
    other = path.parent / Path(str(status.get("same_as"))).name
    try:
        if is_run(other) and read_status(other).get("run_id") == status.get("run_id"):
            theirs = standing(other)
            found.lines, found.source, found.diverged_at = theirs.lines, theirs.source, theirs.diverged_at
    except sealed.Unreadable:
        raise
    except ValueError:  # damaged, or of a newer version: reported where that run is read
        pass


def _stops(run: config.Run) -> bool:
    """Whether a run ends with the epoch in which a loss becomes NaN or infinite."""
    return run.on_divergence == "stop"


def _key(run: config.Run) -> str:
    return json.dumps(run.settings(), sort_keys=True)


def stackable(run: config.Run) -> bool:
    """Whether the stacked engine serves the run; ValueError where it is asked for and does not."""
    kinds = properties.MODELS[run.model.name], properties.OPTIMIZERS[run.optimizer.name]
    applies = all(kind.stackable for kind in kinds)
    if run.engine == "stacked" and not applies:
        raise ValueError(f"engine=stacked: trains model=mlp with optimizer=sgd, not {run.model.name}; use engine=auto")
    return applies and run.engine != "reference"


def _common(run: config.Run) -> str:
    """What members of a stack share, as text."""
    settings = run.settings()
    settings["activation"]["name"] = properties.family(run.activation.name)
    del settings["seed"], settings["optimizer"]["lr"], settings["activation"]["r"]
    return json.dumps(settings, sort_keys=True)


def member_bytes(run: config.Run, unknown_classes: int = 1000) -> int:
    """Memory of one member in training: parameters, what momentum keeps, buffers of a batch (float32)."""
    channels = 1 if getattr(run.dataset, "color", "rgb") == "grey" else 3
    features = channels * run.dataset.image_size**2
    widths = [features, *run.model.hidden, run.dataset.num_classes or unknown_classes]
    parameters = sum(a * b + b for a, b in pairwise(widths))
    copies = 1 + (run.optimizer.momentum > 0) + 3 * run.optimizer.nesterov
    return 4 * (parameters * copies + 3 * run.batch_size * sum(widths[1:]))


def _check_memory(run: config.Run) -> None:
    """ValueError where one member alone takes more than the machine has; a cnn is smaller than this reckoning of it."""
    needed, there = member_bytes(run, unknown_classes=2), machine.total_memory()
    if properties.MODELS[run.model.name].stackable and needed > there:
        largest = {"model.hidden": max(run.model.hidden, default=0), "batch_size": run.batch_size,
                   "dataset.image_size": run.dataset.image_size**2}  # fmt: skip
        key = max(largest, key=lambda name: largest[name])
        value = {"model.hidden": run.model.hidden, "batch_size": run.batch_size}.get(key, run.dataset.image_size)
        takes = f"a run of it takes {needed / 1e9:,.1f} GB of memory, this machine has {there / 1e9:,.1f} GB"
        raise ValueError(f"{key}={value}: too large, {takes}")


def describe(planned: Sequence[Stack], jobs: Sequence[Job]) -> str:
    """One line: how the jobs will train."""
    finished = sum(job.finished for job in jobs)
    done = f", {finished} finished before" if finished else ""
    distinct = sum(len(stack.members) for stack in planned)
    equal = f", {len(jobs) - finished - distinct} equal to another" if len(jobs) - finished > distinct else ""
    sizes = " + ".join(str(len(stack.members)) for stack in planned[:8]) + (" + ..." if len(planned) > 8 else "")
    stacked = f"; trained in stacks of {sizes}" if planned else ""
    return f"{len(jobs)} jobs: {distinct} distinct runs{equal}{done}{stacked}"


def listing(planned: Sequence[Stack]) -> str:
    """Every stack with its memory, every member with its directories: what dry_run shows."""
    lines = []
    for number, stack in enumerate(planned, 1):
        engine = "stacked" if stack.stackable else "reference"
        lines.append(f"stack {number}: {len(stack.members)} members, {stack.bytes / 1e6:.1f} MB, {engine} engine")
        for member in stack.members:
            first, *equal = [path.name for path in member.paths]
            lines.append(f"  {first}" + "".join(f"\n    equal: {name}" for name in equal))
    return "\n".join(lines)
