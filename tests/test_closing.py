"""The last words of a command: a row per configuration, and what became of a run in a sentence."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import write_run
from test_resume import train

from mlp_sweep import aggregate, closing, console, run_dir, statistics


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The words that a sweep ends with, on so many columns."""

    def words(path: Path, columns: int = 100) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(console, "_out", console.Console(highlight=False, emoji=False))
        closing.sweep(path)
        return capfd.readouterr().out.splitlines()

    return words


def rows(path: Path) -> dict[str, dict[str, str]]:
    return closing.table(statistics.measures(aggregate.read([path])).assign(jobs=1))


def test_mean_and_deviation_over_seeds_best_first(tmp_path: Path):
    for seed, (relu, scaled) in enumerate([(0.10, 0.21), (0.20, 0.22), (0.30, 0.26)]):
        write_run(tmp_path / f"a{seed}", "relu", seed=seed, val_accuracy=[0.4, relu], train_loss=[2, 1])
        write_run(tmp_path / f"b{seed}", "scaled", 2.0, seed, val_accuracy=[0.1, scaled], train_loss=[2, 1.5])
    found = rows(tmp_path)
    assert list(found) == ["scaled r=2", "relu"]
    assert found["relu"] == {
        "configuration": "relu",
        "runs": "3 ok",
        "val accuracy": "20.0 \N{PLUS-MINUS SIGN} 10.0 %",
        "best": "40.0 %",
        "train loss": "1.00",
    }
    assert found["scaled r=2"]["val accuracy"] == "23.0 \N{PLUS-MINUS SIGN} 2.6 %"


def test_one_seed_has_no_deviation_and_a_lost_configuration_comes_last(tmp_path: Path):
    write_run(tmp_path / "a", "scaled", 62.0, val_accuracy=[], outcome="diverged")
    write_run(tmp_path / "b", "relu", val_accuracy=[0.1, 0.2])
    found = rows(tmp_path)
    assert list(found) == ["relu", "scaled r=62"]
    assert found["relu"]["val accuracy"] == "20.0 %"
    lost = found["scaled r=62"]
    assert (lost["runs"], lost["val accuracy"], lost["best"], lost["train loss"]) == ("1 diverged", "-", "-", "-")


def test_what_was_lost_is_counted_beside_what_was_not(tmp_path: Path, told):
    for seed in range(5):
        lost: dict[str, Any] = {"outcome": "diverged", "val_accuracy": []} if seed > 2 else {}
        write_run(tmp_path / f"a{seed}", "scaled", 8.0, seed, **lost)
        write_run(tmp_path / f"b{seed}", "relu", seed=seed, val_accuracy=[0.1, 0.3])
    said = told(tmp_path)
    assert any(re.match(r"scaled r=8 +3 ok, 2 diverged +20.0", line) for line in said)
    assert said[-1].startswith("scaled r=8 lost 2 of 5 runs: slope r trains like ReLU with the hidden layers' weights")
    assert said[-1].endswith("times r and their learning rate times r^2, here 64. relu reached 30.0 %.")


def test_equal_jobs_are_one_row(tmp_path: Path, told):
    for r in (2.0, 4.0, 62.0):
        for seed in range(2):
            write_run(tmp_path / f"relu,r={r},seed={seed}", "relu", 1.0, seed, val_accuracy=[0.1, 0.2])
            write_run(tmp_path / f"scaled,r={r},seed={seed}", "scaled", r, seed)
    said = told(tmp_path)
    assert sum(line.startswith("relu") for line in said) == 1
    assert any(re.match(r"relu, 6 jobs +2 ok +20.0", line) for line in said)


def many(folder: Path, configurations: int) -> Path:
    for number in range(configurations):
        lost: dict[str, Any] = (
            {"outcome": "diverged", "val_accuracy": []} if number > 30 else {"val_accuracy": [number / 100]}
        )
        write_run(folder / str(number), "relu", lr=0.001 * (number + 1), **lost)
    return folder


@pytest.mark.parametrize(
    ("configurations", "more"), [(20, ""), (21, "1 more configuration"), (33, "13 more configura")]
)
def test_at_most_a_screen(tmp_path: Path, told, configurations: int, more: str):
    said = told(many(tmp_path, configurations))
    shown = [line for line in said if line.startswith("lr=")]
    assert len(shown) == min(configurations, 20)
    assert shown[0].startswith(f"lr={0.001 * min(configurations, 31):g} ")
    counted = [line for line in said if line.startswith("... and ")]
    assert len(counted) == bool(more)
    if more:
        assert counted[0].startswith(f"... and {more}") and "in report.html: " in counted[0]
    if configurations == 33:
        assert counted[0].endswith(": 11 ok, 2 diverged")


def test_a_short_terminal_has_fewer(tmp_path: Path, told, monkeypatch: pytest.MonkeyPatch):
    for height, shown in ((60, 20), (24, 16), (10, 5)):
        monkeypatch.setattr(console, "height", lambda height=height: height)
        folder = tmp_path / str(height)
        assert sum(line.startswith("lr=") for line in told(many(folder, 25))) == shown


def test_sixty_columns_are_enough(tmp_path: Path, told):
    for number, r in enumerate((1.5, 2.0, 62.0)):
        for seed in range(3):
            lost: dict[str, Any] = {"outcome": "diverged", "val_accuracy": []} if r > 60 and seed else {}
            write_run(tmp_path / f"{number}{seed}", "scaled", r, seed, lr=0.01, **lost)
            write_run(tmp_path / f"b{number}{seed}", "scaled", r, seed, lr=0.03, model="linear", **lost)
    said = told(tmp_path, 60)
    table = said[: next(i for i, line in enumerate(said) if line.startswith("mean"))]
    assert all(len(line) <= 60 for line in table)
    assert all("\N{HORIZONTAL ELLIPSIS}" not in line for line in table)
    assert sum("20.0 \N{PLUS-MINUS SIGN} 0.0 %" in line for line in table) == 4


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({}, True),
        ({"momentum": 0.9}, True),
        ({"weight_decay": 0.1}, False),
        ({"name": "adam"}, False),
    ],
)
def test_the_slope_explains_a_loss_only_where_it_acts_as_a_rate(tmp_path: Path, settings: dict, holds: bool):
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0} | settings
    write_run(tmp_path / "a", "scaled", 62.0, val_accuracy=[], outcome="diverged", settings={"optimizer": optimizer})
    runs = statistics.measures(aggregate.read([tmp_path]))
    assert bool(closing.lost_words(runs)) is holds
    words = " ".join(closing.run_words(tmp_path / "a", run_dir.read_status(tmp_path / "a")))
    assert words.startswith("scaled r=62: diverged") and ("r^2 = 3844" in words) is holds


def test_an_activation_that_is_not_homogeneous_gets_no_law():
    assert closing._rate("scaled", 62.0, "sgd", 0.0) == 3844
    assert closing._rate("relu", 1.0, "sgd", 0.0) == closing._rate("scaled", 1.0, "sgd", 0.0) == 0
    assert closing._rate("tanh", 62.0, "sgd", 0.0) == closing._rate(None, None, None, None) == 0


def test_relu_is_compared_with_only_where_there_is_one(tmp_path: Path):
    write_run(tmp_path / "lost", "scaled", 62.0, val_accuracy=[], outcome="diverged")
    write_run(tmp_path / "r2", "scaled", 2.0)
    assert "reached" not in closing.lost_words(statistics.measures(aggregate.read([tmp_path])))
    write_run(tmp_path / "relu", "relu", val_accuracy=[0.1, 0.48])
    assert "relu reached 48.0 %." in closing.lost_words(statistics.measures(aggregate.read([tmp_path])))
    write_run(tmp_path / "another", "relu", lr=0.1)
    assert "reached" not in closing.lost_words(statistics.measures(aggregate.read([tmp_path])))


def test_a_single_run_in_words(tmp_path: Path, small_run):
    """What is said is what its records say."""
    train(tmp_path, {"fine": small_run(), "wild": small_run("activation=scaled", "activation.r=1e9")})
    fine, wild = (run_dir.read_status(tmp_path / name) for name in ("fine", "wild"))
    columns, lines = run_dir.read_metrics(tmp_path / "fine")
    accuracies = [line[columns.index("val_accuracy")] for line in lines]
    best = accuracies.index(max(accuracies)) + 1
    assert closing.run_words(tmp_path / "fine", fine) == [
        "relu: ok",
        f"validation accuracy {100 * accuracies[-1]:.1f} % after 3 epochs (best {100 * max(accuracies):.1f} % "
        f"at epoch {best}); guessing gives 8.3 %",
    ]
    first, law = closing.run_words(tmp_path / "wild", wild)
    assert first == f"scaled r=1e+09: diverged ({wild['reason']})"
    assert law.startswith("r = 1e+09 trains like ReLU with the hidden layers' weights times r") and "1e+18" in law


def test_a_run_that_failed_has_no_outcome_to_tell(tmp_path: Path):
    write_run(tmp_path / "a", outcome="ok", status={"state": "failed", "outcome": None, "reason": "no"})
    assert closing.run_words(tmp_path / "a", run_dir.read_status(tmp_path / "a")) == []


def test_the_table_imports_no_torch(tmp_path: Path):
    write_run(tmp_path / "s" / "a")
    checked = (
        "import sys, pathlib\n"
        "from mlp_sweep import closing, resume\n"
        "assert 'pandas' not in sys.modules\n"
        "closing.sweep(pathlib.Path('s'))\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", checked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith("relu"), done.stderr
