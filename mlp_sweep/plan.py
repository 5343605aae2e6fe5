"""Jobs to distinct runs to stacks: what a sweep will train, before anything is trained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from . import config

FREE_SHARE = 0.5  # of the free memory that a stack may take


@dataclass
class Job:
    """A run and the directory that its records go to."""

    run: config.Run
    path: Path


@dataclass
class Member:
    """A distinct run: the directories of the jobs that decide the same numbers, the first one's in front."""

    run: config.Run
    paths: list[Path]


@dataclass
class Stack:
    """Members that train together: all but slope, learning rate and seed in common."""

    members: list[Member]
    stackable: bool  # by the closed-form engine; else one member, through autograd

    @property
    def run(self) -> config.Run:
        """What the members have in common."""
        return self.members[0].run

    @property
    def name(self) -> str:
        if len(self.members) > 1:
            return f"{len(self.members)} runs"
        activation = self.run.activation
        return activation.name + (f" r={activation.r:g}" if activation.name in config.WITH_SLOPE else "")

    @property
    def bytes(self) -> int:
        return len(self.members) * member_bytes(self.run)


def stacks(jobs: Sequence[Job], max_members: int | None, free_bytes: int, at_once: int = 1) -> list[Stack]:
    """Equal runs once, the rest grouped by what cannot differ inside a stack, groups cut to fit memory.

    With several stacks at once, memory is shared among them and there are as many as can be busy.
    """
    if max_members is not None and max_members < 1:
        raise ValueError(f"hydra.launcher.max_members={max_members}: must be 1 or more")
    members: dict[str, Member] = {}
    for job in jobs:
        key = json.dumps(job.run.settings(), sort_keys=True)
        members.setdefault(key, Member(job.run, [])).paths.append(job.path)
    groups: dict[str, list[Member]] = {}
    for key, member in members.items():
        groups.setdefault(_common(member.run) if stackable(member.run) else key, []).append(member)
    planned = []
    for group in groups.values():
        fits = max(1, int(FREE_SHARE * free_bytes / at_once) // member_bytes(group[0].run))
        parts = -(-len(group) // min(fits, max_members or fits))
        parts = min(max(parts, -(-at_once // len(groups))), len(group))
        size = -(-len(group) // parts)
        planned += [Stack(group[start : start + size], stackable(group[0].run)) for start in range(0, len(group), size)]
    return planned


def stackable(run: config.Run) -> bool:
    """Whether the stacked engine serves the run; ValueError where it is asked for and does not."""
    applies = run.model.name == "mlp" and run.optimizer.name == "sgd"
    if run.engine == "stacked" and not applies:
        raise ValueError(f"engine=stacked: trains model=mlp with optimizer=sgd, not {run.model.name}; use engine=auto")
    return applies and run.engine != "reference"


def _common(run: config.Run) -> str:
    """What members of a stack share, as text."""
    settings = run.settings()
    settings["activation"] = "scaled" if run.activation.name in ("relu", "scaled") else run.activation.name
    del settings["seed"], settings["optimizer"]["lr"]
    return json.dumps(settings, sort_keys=True)


def member_bytes(run: config.Run) -> int:
    """Memory of one member in training: parameters, what momentum keeps, buffers of a batch (float32)."""
    features = 3 * run.dataset.image_size**2
    widths = [features, *run.model.hidden, run.dataset.num_classes or 1000]
    parameters = sum(a * b + b for a, b in pairwise(widths))
    copies = 1 + (run.optimizer.momentum > 0) + 3 * run.optimizer.nesterov
    return 4 * (parameters * copies + 3 * run.batch_size * sum(widths[1:]))


def describe(planned: Sequence[Stack], jobs: int) -> str:
    """One line: how the jobs will train."""
    distinct = sum(len(stack.members) for stack in planned)
    equal = f", {jobs - distinct} equal to another" if jobs > distinct else ""
    sizes = " + ".join(str(len(stack.members)) for stack in planned[:8]) + (" + ..." if len(planned) > 8 else "")
    return f"{jobs} jobs: {distinct} distinct runs{equal}; trained in stacks of {sizes}"


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


def free_memory() -> int:
    """Bytes of main memory that can be had now; half of a GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2**29
