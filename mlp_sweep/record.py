"""What happens to a stack, written to its runs' directories; and what became of each run."""

import dataclasses
import math
import re
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import console, run_dir
from .config import decisive, one_line
from .events import Ended, Epoch, Event, Started
from .outcomes import judge
from .plan import Member, Stack
from .run_dir import RunDir, read_metrics


@dataclass
class Result:
    """How a job ended. `objective`: final validation accuracy, 0 where there is none (sweepers need a number)."""

    path: Path
    outcome: str | None = None
    objective: float = 0.0
    error: Exception | None = None


def record(stack: Stack, happenings: Generator[Event]) -> Iterator[Result]:
    """Writes what happens to the members' directories, equal jobs' alike; yields each job's result as it ends."""
    records = [[RunDir(path) for path in member.paths] for member in stack.members]
    left = set(range(len(records)))
    with ExitStack() as held:
        try:
            for member, directories in zip(stack.members, records, strict=True):
                for job, directory in zip(member.jobs, directories, strict=True):
                    held.enter_context(directory.lock())
                    if run_dir.stamp(job.path) != job.stamp:
                        raise ValueError(f"{job.path}: another process trained it meanwhile; give the command again")
            held.enter_context(closing(happenings))  # whoever trains does not go on where nothing can be recorded
            for event in happenings:
                match event:
                    case Started():
                        for member, about, directories in zip(stack.members, event.about, records, strict=True):
                            _start(member, directories, event, about)
                    case Epoch():
                        _record_epoch(records[event.row.member], event)
                    case Ended():
                        # The one with the checkpoint last: killed in between, the others do not start anew.
                        for directory in reversed(records[event.member]):
                            yield _end(directory, event)
                        left.discard(event.member)
        except KeyboardInterrupt:
            for member in left:
                for directory in records[member]:
                    _stop(directory, stack.members[member], "stopped", console.stop_reason())
            raise
        except Exception as raised:
            error = _plain(raised, stack)
            unfinished = [(directory, stack.members[member]) for member in left for directory in records[member]]
            for directory, member in unfinished:  # all, before whoever listens to the first may have heard enough
                _stop(directory, member, "failed", one_line(error), traceback.format_exc())
            yield from (Result(directory.path, error=error) for directory, _ in unfinished)


def _stop(directory: RunDir, member: Member, state: str, reason: str, trace: str | None = None) -> None:
    # Before it started a run has no settings in its status yet, and whoever resumes or reports it wants them.
    directory.status.setdefault("settings", dataclasses.asdict(member.run))
    directory.stop(state, reason, trace)


def _plain(error: Exception, stack: Stack) -> Exception:
    """Out of memory, which each library says in words of its own, as one sentence with what takes it."""
    if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
        return error
    run, members = stack.run, len(stack.members)
    what = f"model.hidden={run.model.hidden}, batch_size={run.batch_size}"
    fewer = f", {members} runs at once; fewer: hydra.launcher.max_members, or max_members where a sweep is resumed"
    said = MemoryError(f"out of memory with {what}{fewer if members > 1 else ''}")
    said.__cause__ = error
    return said


def _start(member: Member, directories: list[RunDir], started: Started, about: dict[str, Any]) -> None:
    for number, directory in enumerate(directories):
        before = directory.status if member.standing.source else {}
        _check_same_data(directory, member.standing, about)
        same_as = directories[0].path.name if number else None
        commands = {"command": before.get("command") or sys.argv}
        commands |= {"resumed": sys.argv} if before.get("command") else {}
        about = about | commands | ({"run_id": before["run_id"]} if _keeps_its_id(before, about) else {})
        directory.start(started.columns, member.standing, **about, same_as=same_as)
        for note in started.notes:
            directory.log(note)


def _check_same_data(directory: RunDir, standing: run_dir.Standing, about: dict[str, Any]) -> None:
    """ValueError where a run that continues was trained on other pictures, or is another run altogether."""
    there = (directory.status.get("data") or {}).get("fingerprint")
    here = about["data"]["fingerprint"]
    if standing.source and there is not None and there != here:
        raise ValueError(f"{directory.path}: trained on other pictures (fingerprint {there:.12}, now {here:.12})")
    if standing.source and not directory.status and standing.run_id not in (None, about["run_id"]):
        raise ValueError(f"{directory.path}: holds another run's results (run_id {standing.run_id}); remove them")


def _keeps_its_id(before: dict[str, Any], about: dict[str, Any]) -> bool:
    """A recorded run_id stays, whatever today's code would make of the same settings."""
    if not before.get("run_id") or before.get("engine") != about["engine"]:
        return False
    return decisive(before.get("settings") or {}) == decisive(about["settings"])


def _record_epoch(directories: list[RunDir], event: Epoch) -> None:
    """The checkpoint first, with the epoch's line in it: whatever the moment of a kill, no whole epoch is lost."""
    row = event.row
    figures = {"train_loss": row.train_loss, "train_accuracy": row.train_accuracy}
    figures |= {"val_loss": row.val_loss, "val_accuracy": row.val_accuracy}
    dead = {f"dead_{i + 1}": share for i, share in enumerate(row.dead)}
    cells = {"epoch": row.epoch, **figures, "grad_norm": row.grad_norm, **dead, "seconds": round(row.seconds, 4)}
    directories[0].checkpoint(event.state, cells, row.diverged_at)
    finite = {key: None if math.isnan(value) else value for key, value in figures.items()}  # JSON has no NaN
    said = f"epoch {row.epoch}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    for directory in directories:
        best = directory.status.get("best_val_accuracy")
        if row.diverged_at is None:
            best = max(row.val_accuracy, best or 0.0)
        directory.append(cells, final=finite, best_val_accuracy=best, diverged_at=row.diverged_at)
        directory.log(said)


def _end(directory: RunDir, end: Ended) -> Result:
    columns, rows = read_metrics(directory.path, directory.status)
    epochs = [dict(zip(columns, row, strict=True)) for row in rows]
    last = epochs[-1] if epochs else {}
    outcome, reason = judge(epochs, directory.status.get("diverged_at"), len(end.trained_on.classes))
    directory.finish(outcome, reason, end.weights, end.trained_on, end.stateful)
    directory.log(outcome if reason is None else f"{outcome}: {reason}")
    return Result(directory.path, outcome, objective(last.get("val_accuracy")))


def objective(val_accuracy: float | None) -> float:
    return 0.0 if val_accuracy is None or math.isnan(val_accuracy) else val_accuracy
