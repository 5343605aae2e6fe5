"""Commands of random overrides, valid and not: they train, or say in one line what is amiss."""

import random
import shutil
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .trials import DATA, Outcome, command

NUMBERS = "0 1 2 3 -1 0.5 1e3 1e400 nan inf 1e-9 99999999999999999999".split()
WORDS = "true null [] [3] [8,4] {a:1} '' a/b .. 日本 ${seed} ??? [100000000] <b> ' $ 0,1 stop,continue range(2)".split()
NAMES = "scaled relu linear cnn mlp stacked reference cpu cuda medium".split()
KEYS = """roll seed data_seed epochs batch_size activation activation.r optimizer.lr optimizer.momentum
optimizer.nesterov optimizer.weight_decay model model.hidden dataset dataset.image_size dataset.num_classes
dataset.samples_per_class dataset.val_per_class dataset.verify dataset.root augment.flip augment.shift engine device
matmul_precision on_divergence dry_run fail_fast data_dir hydra.launcher.max_members no.such.key +new ~seed""".split()
VALUES = st.one_of(*map(st.sampled_from, (NUMBERS, NUMBERS, WORDS, NAMES)))
OVERRIDES = st.lists(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES) | st.text(max_size=8), max_size=4)


def run(count: int, seed: int, folder: Path) -> Outcome:
    outcome = Outcome("random overrides")

    @hypothesis.seed(seed)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(OVERRIDES, st.booleans())
    def every(overrides: list[str], multirun: bool) -> None:
        words = [*(["--multirun"] if multirun else []), *DATA, "epochs=1", *(o.replace("\0", "") for o in overrides)]

        def attempt(_: random.Random) -> None:
            place = folder / "fuzz"
            done = command(place, *words)
            shutil.rmtree(place)
            assert "Traceback" not in done.stderr, done.stderr[-1500:]
            assert done.returncode in (0, 1, 2), f"status {done.returncode}: {done.stderr[-500:]}"
            assert done.returncode == 0 or any(line.strip() for line in done.stderr.splitlines())

        outcome.trial(repr(words), seed, attempt)

    every()
    return outcome
