"""python -m benchmarks.throughput: training rates of a step, ours beside the floor and the peers.

One process, one run; every row is timed in turn, round after round, so that drift of the machine hits all alike.
Unit: member-samples per second (a sample trained by one member), median and range of the rounds; the ratio is
to the floor of the same shape. The floor is the first layer's forward and update product alone, all members,
with the fastest kernel at hand, in one process or one a core, whichever is faster. A sweep of several runs trains as
"one stack per core"; its processes are timed from this one, with which they synchronise every sixteen steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from mlp_sweep import cli, config, model, processes  # noqa: F401 (cli registers the schema)
from mlp_sweep.data.batches import Batches, order
from mlp_sweep.engines import StackedEngine
from mlp_sweep.engines.kernels import Members, PerMember, PerMemberOneDNN, PerMemberTiled, Products, choose

from .dealt import dealt

FEATURES, SIDE, CLASSES, COUNT = 12288, 64, 72, 4096
LEVELS = np.full(3, 127.5), np.full(3, 74.0)  # mean and deviation of the pictures, per channel
CPU = torch.device("cpu")
Step = Callable[[], int]  # trains something once; returns its member-samples


def member(seed: int) -> config.Run:
    """A member of the default experiment, each with a slope and a rate of its own."""
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        run = config.to_run(compose("config", overrides=["activation=scaled"]))[0]
    slope, rate = replace(run.activation, r=1 + seed / 32), replace(run.optimizer, lr=0.01 / (1 + seed % 4))
    return replace(run, activation=slope, optimizer=rate, seed=seed)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (COUNT, 3, SIDE, SIDE), np.uint8), draws.integers(0, CLASSES, COUNT)


def epochs_of(batches: Batches):
    """Batches without end, epoch after epoch, the short last one left out so that all steps are alike."""
    epoch = 0
    while True:
        epoch += 1
        for x_BD, y_B in batches(order(0, epoch, batches.count)):
            if len(y_B) == batches.batch_size:
                yield x_BD, y_B


def floor(members: int, batch: int) -> Step:
    x_BD = torch.randn(batch, FEATURES)

    def with_products(products: Products) -> Step:
        w_MOI, b_MO, z_MBO, dz_MBO = (
            Members(
                members,
                *shape,
                dtype=torch.float32,
                device=CPU,
                transposed=products.transposed and shape[-1] == FEATURES,
            )
            for shape in ((64, FEATURES), (64,), (batch, 64), (batch, 64))
        )

        @torch.inference_mode()
        def step() -> int:
            products.forward(x_BD, w_MOI, b_MO, z_MBO)
            products.accumulate(w_MOI, dz_MBO, x_BD, -1)
            return members * batch

        return step

    ways = [with_products(products) for products in (PerMember(), PerMemberTiled(), PerMemberOneDNN())]
    return min(ways, key=lambda step: min(_seconds(step, 4) for _ in range(3)))


def ours(members: int, batch: int, data: Batches, precision: str) -> Step:
    torch.set_float32_matmul_precision(precision)  # the choice of products depends on it
    engine = StackedEngine([member(seed) for seed in range(members)], FEATURES, CLASSES, CPU)
    torch.set_float32_matmul_precision("highest")
    stream = epochs_of(data)

    def step() -> int:
        engine.step(*next(stream))
        return members * batch

    return step


def ours_alone(members: int, batch: int) -> Step:
    """The same, with pictures of its own: what a process of a sweep does."""
    return ours(members, batch, Batches(*pictures(), *LEVELS, batch, CPU), "highest")


def in_memory(batch: int, data: Batches) -> Step:
    net = model.mlp(member(0), FEATURES, CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    stream = epochs_of(data)

    def step() -> int:
        x_BD, y_B = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(net(x_BD), y_B).backward()
        optimizer.step()
        return batch

    return step


def vmapped(members: int, batch: int, data: Batches) -> Step:
    from torch.func import functional_call, grad, stack_module_state, vmap

    nets = [model.mlp(member(seed), FEATURES, CLASSES) for seed in range(members)]
    parameters, buffers = stack_module_state(nets)  # pyright: ignore[reportArgumentType]
    parameters = {key: value.detach() for key, value in parameters.items()}

    def loss(p, b, x, y):
        return F.cross_entropy(functional_call(nets[0], (p, b), (x,)), y)

    gradients = vmap(grad(loss), in_dims=(0, 0, None, None))
    stream = epochs_of(data)

    def step() -> int:
        x_BD, y_B = next(stream)
        with torch.no_grad():
            for key, value in gradients(parameters, buffers, x_BD, y_B).items():
                parameters[key].sub_(value, alpha=0.01)
        return members * batch

    return step


def jitted(batch: int, data: Batches) -> Step:
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    net = model.mlp(member(0), FEATURES, CLASSES)
    weights = [
        (jnp.asarray(layer.weight.detach().numpy()), jnp.asarray(layer.bias.detach().numpy())) for layer in net.layers
    ]

    def loss(weights, x, y):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w.T + b)
        logits = x @ weights[-1][0].T + weights[-1][1]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    update = jax.jit(
        lambda w, x, y: jax.tree.map(lambda p, g: p - 0.01 * g, w, jax.grad(loss)(w, x, y)), donate_argnums=0
    )
    stream = epochs_of(data)

    def step() -> int:
        nonlocal weights
        x_BD, y_B = next(stream)
        weights = jax.block_until_ready(update(weights, x_BD.numpy(), y_B.numpy()))
        return batch

    return step


def scikit(batch: int, data: Batches) -> Step:
    from sklearn.neural_network import MLPClassifier  # pyright: ignore[reportMissingImports]

    net = MLPClassifier((64, 128), solver="sgd", alpha=0, learning_rate_init=0.01, momentum=0)
    net.set_params(batch_size=batch)
    stream = epochs_of(data)

    def step() -> int:
        x_BD, y_B = next(stream)
        net.partial_fit(x_BD.numpy(), y_B.numpy(), classes=np.arange(CLASSES))
        return batch

    return step


def notebook(batch: int, folder: Path) -> Step:
    """What a notebook does: ImageFolder, DataLoader with two workers, nn.Module, torch.optim."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize(SIDE), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    pictures = ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(pictures, batch, shuffle=True, num_workers=2, persistent_workers=True)
    net = nn.Sequential(nn.Flatten(), model.mlp(member(0), FEATURES, CLASSES))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def epoch() -> int:
        count = 0
        for x, y in loader:  # the workers are forked at the first of these, before JAX starts its threads
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            count += len(y)
        return count

    return epoch


def write_jpegs(folder: Path, count: int) -> None:
    """Smooth pictures of the size of Tiny ImageNet's (about 2 kB each), in a class folder each 36th."""
    from PIL import Image

    draws = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(draws.integers(0, 256, (12, 12, 3), np.uint8))
        where = folder / f"class{number % CLASSES:02d}"
        where.mkdir(parents=True, exist_ok=True)
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(where / f"{number}.jpeg", quality=85)


def _seconds(step: Step, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - started


def measure(rows: dict[str, tuple[str, Step]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Member-samples per second of each row in each round, after a warm-up; a round lasts about `seconds`."""
    precision = torch.get_float32_matmul_precision()
    times = {}
    for name, (how, step) in rows.items():
        torch.set_float32_matmul_precision(how)
        step()
        times[name] = max(1, int(seconds / max(_seconds(step, 2) / 2, 1e-6)))
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (how, step) in rows.items():
            torch.set_float32_matmul_precision(how)
            started = time.perf_counter()
            done = sum(step() for _ in range(times[name]))
            rates[name].append(done / (time.perf_counter() - started))
    torch.set_float32_matmul_precision(precision)
    return rates


def rows_of(
    members: int, batch: int, data: Batches, folder: Path, open_till_measured: ExitStack
) -> dict[str, tuple[str, Step]]:
    rows = {}
    if members == 1:
        rows["ImageFolder + DataLoader (notebook)"] = ("highest", notebook(batch, folder))
        rows["ImageFolder + DataLoader (notebook)"][1]()
    rows |= {
        "floor": ("highest", floor(members, batch)),
        "mlp_sweep, highest": ("highest", ours(members, batch, data, "highest")),
        "mlp_sweep, medium": ("medium", ours(members, batch, data, "medium")),
        "torch.func vmap": ("highest", vmapped(members, batch, data)),
    }
    if members > 1 and processes.AVAILABLE:
        for name, build in (
            ("floor, one process per core", floor),
            ("mlp_sweep, one stack per core (default)", ours_alone),
        ):
            rows[name] = ("highest", open_till_measured.enter_context(dealt(build, members, batch)))
    if members == 1:
        del rows["torch.func vmap"]
        rows["nn.Module + torch.optim, in memory"] = ("highest", in_memory(batch, data))
        if find_spec("jax"):
            rows["JAX jit"] = ("highest", jitted(batch, data))
        if find_spec("sklearn"):
            rows["scikit-learn MLPClassifier"] = ("highest", scikit(batch, data))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a row in a round")
    args = parser.parse_args()
    x_NCHW, y_N = pictures()
    title = f"{FEATURES}-64-128-{CLASSES}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    columns = ("members", "batch", "what", "median", "range", "of floor", "x in memory")
    table = Table(*columns, title=f"{title}, kernel {choose(CPU).name}")
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), 2048)
        for batch in args.batch:
            alone = 0.0
            for members in args.members:
                data = Batches(x_NCHW, y_N, *LEVELS, batch, CPU)
                with ExitStack() as till_measured:
                    rows = rows_of(members, batch, data, Path(folder), till_measured)
                    rates = measure(rows, args.rounds, args.seconds)
                medians = {name: statistics.median(values) for name, values in rates.items()}
                highest = max(median for name, median in medians.items() if name.startswith("floor"))
                alone = medians.get("nn.Module + torch.optim, in memory", alone)
                for name, values in rates.items():
                    spread = f"{min(values):,.0f} to {max(values):,.0f}"
                    ratio = f"{medians[name] / alone:.2f}" if alone else "-"
                    table.add_row(str(members), str(batch), name, f"{medians[name]:,.0f}", spread,
                                  f"{medians[name] / highest:.2f}", ratio)  # fmt: skip
                table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
