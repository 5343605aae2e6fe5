"""Where a resumed run is looked for, and where a record may have something written."""

import os
import resource
import shutil
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import SMALL, make_run
from small_sets import settings, tiny_imagenet_tree, zipped
from test_resume import results_of, train

from mlp_sweep import aggregate, asked, console, heartbeat, plan, record, resume, run_dir, workers
from mlp_sweep.data import cache


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begin(name: str, data_dir: Path, *overrides: str, stop_after: int | None = 2) -> dict:
    """A run that was broken off, as in a record that somebody sends."""
    run = make_run(*SMALL, "device=cpu", f"data_dir={data_dir}", *overrides)
    train(Path(), {name: run}, stop_after)
    return asdict(run)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's folder with a cache, in it what a killed preparation may have left, and nothing that is wanted."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "cache" / "thesis.partial").mkdir(parents=True)
    (place / "cache" / "thesis.partial" / "chapter1").write_text("years of work")
    return place


@pytest.mark.parametrize("link", ["", "data", "data/cache"])
def test_a_record_alone_has_nothing_written_or_removed_elsewhere(
    tmp_path: Path, elsewhere: Path, link: str, capsys: pytest.CaptureFixture[str]
):
    data_dir = tmp_path / "data" if link else elsewhere
    run = asdict(make_run(*SMALL, "device=cpu", f"data_dir={data_dir}"))
    asked.run(tmp_path / "run", run)
    if link == "data":
        (tmp_path / "data").symlink_to(elsewhere)
    elif link:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "cache").symlink_to(elsewhere / "cache")
    before = tree(elsewhere)
    with pytest.raises(SystemExit):
        resume.main(["run"])
    assert f"data_dir={data_dir}" in capsys.readouterr().err and tree(elsewhere) == before
    resume.main(["run", f"data_dir={data_dir}"])  # typed: allowed, and leftovers of preparations are removed
    assert run_dir.read_status(tmp_path / "run")["state"] == "finished"


def test_prepared_pictures_are_read_from_anywhere(tmp_path: Path, elsewhere: Path):
    begin("run", elsewhere)
    (elsewhere / "cache" / "thesis.partial").mkdir(parents=True)
    before = tree(elsewhere)
    resume.main(["run"])
    assert tree(elsewhere) == before and (elsewhere / "cache" / "thesis.partial").is_dir()
    assert run_dir.read_status(tmp_path / "run")["state"] == "finished"


def test_missing_pictures_are_prepared_where_a_command_would_put_them(tmp_path: Path):
    begin("run", tmp_path / "data")
    shutil.rmtree("data")
    resume.main(["run"])
    assert run_dir.read_status(tmp_path / "run")["state"] == "finished"


def test_nothing_is_unpacked_or_fetched_into_a_folder_that_only_a_record_names(tmp_path: Path, elsewhere: Path):
    (elsewhere / "imagenette2-160.tgz").write_bytes(b"an archive")
    sets = {"imagenette": elsewhere, "tiny_imagenet": elsewhere / "x.zip", "fashion_mnist": elsewhere}
    before = tree(elsewhere)
    for name, root in sets.items():
        dataset = settings(name, root=str(root), download=True, url="http://127.0.0.1:9", md5={})
        with pytest.raises(ValueError, match=f"dataset.root={root}"):
            cache.load(dataset, 0, str(tmp_path / "data"), None, may_unpack=False)  # type: ignore[arg-type]
    assert tree(elsewhere) == before


def test_an_archive_that_is_only_read_needs_no_permission(tmp_path: Path):
    archive = zipped(tiny_imagenet_tree(tmp_path / "tree"), tmp_path / "x.zip", zipfile.ZIP_STORED)
    dataset = settings("tiny_imagenet", root=str(archive), num_classes=None)
    arrays = cache.load(dataset, 0, str(tmp_path / "data"), console.Progress(), may_unpack=False)
    assert len(arrays.classes) == 4 and len(arrays.train_y) == 24


def make_sweep(seeds: int = 3, epochs: int = 3, stop_after: int | None = None) -> dict:
    runs = {f"job-{seed}": make_run(*SMALL, "device=cpu", f"seed={seed}", f"epochs={epochs}") for seed in range(seeds)}
    asked.sweep(Path("s").absolute(), {Path("s", name).absolute(): asdict(run) for name, run in runs.items()})
    train(Path("s").absolute(), runs, stop_after)
    return runs


def times(folder: Path) -> dict[Path, int]:
    """Of the rows: a row that is trained again is written again."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(run_dir.METRICS)}


def test_a_renamed_run_directory_is_recognised_by_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep()
    (tmp_path / "s" / "job-1").rename(tmp_path / "s" / "the good one")
    before = times(tmp_path / "s")
    assert aggregate.read([Path("s")]).unfinished == []
    resume.main(["s"])
    assert times(tmp_path / "s") == before and not (tmp_path / "s" / "job-1").exists()
    assert "the good one: recognised by its settings as the job job-1" in capsys.readouterr().err


def test_a_renamed_run_directory_continues(tmp_path: Path):
    runs = make_sweep(stop_after=4)
    (tmp_path / "s" / "job-1").rename(tmp_path / "s" / "renamed")
    lines = (tmp_path / "s" / "renamed" / run_dir.METRICS).read_text().splitlines()
    assert len(lines) > 1
    resume.main(["s"])
    assert (tmp_path / "s" / "renamed" / run_dir.METRICS).read_text().splitlines()[: len(lines)] == lines
    assert asked.jobs(tmp_path / "s").keys() == {"job-0", "renamed", "job-2"}
    train(tmp_path / "whole", {"renamed": runs["job-1"]})
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "s" / "renamed")


@pytest.mark.parametrize("stop_after", [None, 5])
def test_a_run_without_its_status_is_completed_from_its_other_files(tmp_path: Path, stop_after: int | None):
    runs = make_sweep(stop_after=stop_after)
    lines = (tmp_path / "s" / "job-1" / run_dir.METRICS).read_text().splitlines()
    (tmp_path / "s" / "job-1" / run_dir.STATUS).unlink()
    said = dict((Path(path).name, why) for path, why in aggregate.read([Path("s")]).unfinished)
    assert "status.json is missing" in said["job-1"]
    resume.main(["s"])
    assert (tmp_path / "s" / "job-1" / run_dir.METRICS).read_text().splitlines()[: len(lines)] == lines
    train(tmp_path / "whole", {"job-1": runs["job-1"]})
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "s" / "job-1")


def test_files_of_another_run_are_not_taken_for_its_own(tmp_path: Path):
    make_sweep()
    for name in ("job-1", "job-2"):
        (tmp_path / "s" / name / run_dir.STATUS).unlink()
    (tmp_path / "s" / "job-1" / run_dir.WEIGHTS).replace(tmp_path / "s" / "job-2" / run_dir.WEIGHTS)
    before = tree(tmp_path / "s" / "job-2")
    with pytest.raises(SystemExit):
        resume.main(["s"])
    after = tree(tmp_path / "s" / "job-2")
    assert all(after[name] == before[name] for name in (run_dir.WEIGHTS, run_dir.METRICS))


def test_fewer_epochs_than_done_are_refused_before_anything_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(epochs=4)
    status = run_dir.read_status(tmp_path / "s" / "job-1")
    before = tree(tmp_path / "s")
    with pytest.raises(SystemExit):
        resume.main(["s", "epochs=3"])
    assert "job-0 has 4 epochs already" in capsys.readouterr().err and tree(tmp_path / "s") == before
    resume.main(["s", "epochs=4"])
    assert run_dir.read_status(tmp_path / "s" / "job-1") == status


@pytest.mark.parametrize("momentum", [0, 0.9])  # continues from its weights, or from its checkpoint
def test_too_few_open_files_are_no_answer(tmp_path: Path, momentum: float):
    """A file that the system does not open may hold anything: nothing is trained again, and the error is named."""
    run = make_run(*SMALL, "device=cpu", f"optimizer.momentum={momentum}")
    train(tmp_path, {"run": run})
    before, path = tree(tmp_path / "run"), tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    status = run_dir.read_status(path)
    kept = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (kept[0] + 1, hard))
        for reader in (lambda: plan.job(run, path), lambda: run_dir.standing(path, status)):
            with pytest.raises((ValueError, OSError), match="Too many open files"):
                reader()
        for reader in (run_dir.find_runs, run_dir.stamp):
            with pytest.raises(OSError, match="Too many open files"):
                reader(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in kept:
            os.close(file)
    assert tree(path) == before


def test_too_few_open_files_fail_runs_by_that_name(tmp_path: Path):
    run = make_run(*SMALL, "device=cpu")
    train(tmp_path, {"run": run})
    [stack] = plan.stacks([plan.job(make_run(*SMALL, "device=cpu", "epochs=5"), tmp_path / "run", True)], None, 2**40)
    happenings = workers.events(stack)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = os.open(os.devnull, os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (kept + 1, hard))
        [result] = list(record.record(stack, happenings))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(kept)
    assert "Too many open files" in str(result.error)
    assert run_dir.read_status(tmp_path / "run")["state"] == "finished"


def aged(lock: Path, seconds: float) -> None:
    now = time.time()
    os.utime(lock, (now - seconds, now - seconds))


@pytest.mark.parametrize(
    ("host", "beat", "age", "state"),
    [
        ("elsewhere", heartbeat.EVERY, heartbeat.MISSED * heartbeat.EVERY - 5, "running"),
        ("elsewhere", heartbeat.EVERY, heartbeat.MISSED * heartbeat.EVERY + 5, "stopped"),
        ("elsewhere", None, 10**7, "running"),  # of record version 1, which promised no sign of life
        ("here", heartbeat.EVERY, 10**7, "running"),  # this process is alive, however seldom it may touch the file
    ],
)
def test_a_process_on_another_host_ends_with_its_heartbeat(tmp_path: Path, host: str, beat, age: float, state: str):
    directory = run_dir.RunDir(tmp_path)
    with directory.lock():
        directory.start(["epoch", "seconds"], settings={})
    directory.set(heartbeat=beat, **({"host": host} if host != "here" else {}))
    aged(tmp_path / run_dir.LOCK, age)
    status = run_dir.read_status(tmp_path)
    assert status["state"] == state
    assert state == "running" or "no sign of life for 10 minutes" in status["reason"]


def test_a_lock_that_is_held_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    monkeypatch.setattr(heartbeat, "_thread", None)
    directory, lock = run_dir.RunDir(tmp_path), tmp_path / run_dir.LOCK

    def touched(within: float) -> bool:
        aged(lock, 1000)
        end = time.monotonic() + within
        while time.monotonic() < end:
            if time.time() - lock.stat().st_mtime < 900:
                return True
            time.sleep(0.01)
        return False

    with directory.lock():
        assert touched(within=20)
    time.sleep(0.2)
    assert not touched(within=0.3)
