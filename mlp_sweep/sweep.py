"""A planned stack trained: pictures, engine and epoch loop put together; one run or a thousand take the same road."""

import dataclasses
from collections.abc import Generator
from typing import Any

import torch

from . import config, console, engines, machine, provenance
from .data import Arrays, Batches, load
from .engines import kernels
from .events import Ended, Epoch, Event, Started, State
from .plan import Stack
from .run_dir import FIGURES
from .train import fit
from .weights import TrainedOn


def events(stack: Stack, progress: console.Progress, bar: console.Bar) -> Generator[Event]:
    """Trains a stack, from where its members stand; yields what there is to record as it comes."""
    run = stack.run
    device = find_device(run.device)
    torch.set_float32_matmul_precision(run.matmul_precision)
    arrays = load(run.dataset, run.data_seed, run.data_dir, progress, stack.may_prepare, stack.may_unpack)
    train_split, val_split = (
        Batches(x, y, arrays.mean_C, arrays.std_C, run.batch_size, device, augment=augment)
        for x, y, augment in ((arrays.train_x, arrays.train_y, run.augment), (arrays.val_x, arrays.val_y, None))
    )
    features, classes = train_split.features, len(arrays.classes)
    trained_on = TrainedOn(arrays.classes, arrays.names, arrays.mean_C.tolist(), arrays.std_C.tolist())
    runs = [member.run for member in stack.members]
    engine = engines.build(runs, stack.stackable, features, classes, device)
    for slot, member in enumerate(stack.members):
        if member.state is not None:
            engine.load(slot, {key: torch.tensor(value) for key, value in member.state.items()})
            member.state = None
    columns = ["epoch", *FIGURES, "grad_norm"]
    columns += [f"dead_{i + 1}" for i in range(len(run.model.hidden))] + ["seconds"]
    skipped = [f"picture left out: {name} ({why})" for name, why in arrays.skipped.items()]
    yield Started(columns, [_about(one, arrays, engine, device) for one in runs], skipped)

    def ended(member: int, slot: int) -> Ended:
        stateful = len(engine.state(slot)) > len(engine.weights(slot))
        return Ended(member, _arrays(engine.weights(slot)), stateful, trained_on)

    if stack.over:  # killed between its last epoch and its end
        for member in range(engine.members):
            yield ended(member, member)
        return
    bar.total(train_split.count * (run.epochs - stack.epoch))
    epochs = range(stack.epoch + 1, run.epochs + 1)
    diverged_at = [member.standing.diverged_at for member in stack.members]
    stay = run.on_divergence == "continue"
    for rows in fit(engine, train_split, val_split, run.data_seed, epochs, bar.advance, diverged_at, stay):
        for row in rows:
            yield Epoch(row, _arrays(engine.state(row.slot)))
            if row.epoch == run.epochs or (row.diverged_at and not stay):
                yield ended(row.member, row.slot)
        bar.say(f"epoch {rows[0].epoch}/{run.epochs}")


def share_threads(stack: Stack, threads: int) -> None:
    """Leaves the other cores to other processes, where it changes no bit of the numbers; else takes all."""
    shared = stack.stackable and stack.run.matmul_precision == "highest"
    shared = shared and kernels.choose(torch.device("cpu")).any_threads
    torch.set_num_threads(threads if shared else machine.cores())


def find_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU. ValueError where the device named is not there."""
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if name == "auto":
        name = there[0]
    if name not in there:
        raise ValueError(f"device={name}: not on this machine (here: {', '.join(there)})")
    return torch.device(name)


def _arrays(tensors: dict[str, torch.Tensor]) -> State:
    return {key: value.cpu().contiguous().numpy() for key, value in tensors.items()}  # safetensors saves no views


def _about(run: config.Run, arrays: Arrays, engine: engines.Engine, device: torch.device) -> dict[str, Any]:
    """What status.json says of a run besides how it went."""
    return {
        "run_id": dataclasses.replace(run, device=device.type, engine=engine.name).id(arrays.fingerprint),
        "settings": dataclasses.asdict(run),
        "epochs": run.epochs,
        "data": {
            "name": run.dataset.name,
            "fingerprint": arrays.fingerprint,
            "classes": len(arrays.classes),
            "train": len(arrays.train_y),
            "val": len(arrays.val_y),
            "skipped": len(arrays.skipped),
        },
        "members": engine.members,
        "engine": engine.name,
        "kernel": engine.kernel,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else provenance.processor(),
        "threads": torch.get_num_threads(),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }
