"""The report as a whole: what it writes, what it says, and that a browser can show it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_up import write_run, write_sweep

from mlp_sweep import aggregate, asked, report
from mlp_sweep.outcomes import LOST

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the sweep's folder, its report): three seeds of ReLU and r = 2, r = 62 lost, a job twice, a broken one."""
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder, {
        "relu": [{"val_accuracy": [0.1, 0.2, 0.30 + s / 100]} for s in range(3)],
        "scaled 2": [{"val_accuracy": [0.2, 0.3, 0.36 + s / 50]} for s in range(3)],
        "scaled 62": [{"val_accuracy": [], "outcome": "diverged"} for _ in range(3)],
    })  # fmt: skip
    write_run(folder / "relu again", "relu", seed=0, val_accuracy=[0.1, 0.2, 0.3])
    write_run(folder / "scaled <b>9", "scaled", 9.0)
    reason = {"reason": "<script>alert(1)</script>"}
    write_run(folder / "scaled <b>9 failed", "scaled", 9.0, seed=1, outcome="failed", status=reason)
    (folder / "broken & <i>odd").mkdir()
    (folder / "broken & <i>odd" / "status.json").write_text("no JSON")
    return folder, report.write([folder], folder / "report")


def test_every_file_is_there_whole(made: tuple[Path, Path]):
    names = {path.name for path in made[1].iterdir()}
    charts = {"training_loss", "train_accuracy", "val_accuracy", "r_sweep"}
    assert names == {f"{c}.{e}" for c in charts for e in ("png", "svg")} | {
        "report.html", "epochs.csv", "runs.csv", "summary.csv", "comparisons.csv"}  # fmt: skip


def test_tables_come_back_as_they_were(made: tuple[Path, Path]):
    folder, out = made
    sweep = aggregate.read([folder])
    epochs = pd.read_csv(out / "epochs.csv")
    assert epochs.val_accuracy.equals(sweep.epochs.val_accuracy)
    assert epochs["activation.r"].dtype == float and epochs["seed"].dtype == int
    summary = pd.read_csv(out / "summary.csv").set_index("configuration")
    assert summary.final_val_accuracy["relu"] == pytest.approx(0.31) and summary.diverged["scaled r=62"] == 3
    comparisons = pd.read_csv(out / "comparisons.csv").set_index(["measure", "configuration"])
    row = comparisons.loc[("final_val_accuracy", "scaled r=2")]
    assert row.difference == pytest.approx(0.07) and row.pairs == 3


def test_the_same_runs_give_the_same_report(made: tuple[Path, Path], tmp_path: Path):
    folder, out = made
    again = report.write([folder], tmp_path)
    assert [p.name for p in out.iterdir() if p.read_bytes() != (again / p.name).read_bytes()] == []


def test_names_with_html_in_them_are_text(made: tuple[Path, Path]):
    page = (made[1] / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<i>odd" not in page and "broken &amp; &lt;i&gt;odd" in page


def test_the_page_says_what_was_left_out_and_what_was_counted_once(made: tuple[Path, Path]):
    page = (made[1] / "report.html").read_text()
    assert "status.json: unreadable" in page
    assert "1 equal to another run, counted once" in page
    assert re.search(r"runs: \d+ ok, 3 diverged, 1 failed", page)


def test_the_page_names_the_classes_of_each_data_set_from_the_runs_alone(tmp_path: Path):
    other = {"name": "made_up", "fingerprint": "e" * 16, "classes": 2, "train": 6, "val": 6}
    write_run(tmp_path / "a", seed=0)  # no weights yet
    write_run(tmp_path / "b", seed=1, names=["tabby, tabby cat", "</ol><script>alert(1)</script>"])
    write_run(tmp_path / "c", seed=2, status={"data": other}, names=["ant", "bee"])
    write_run(tmp_path / "d", seed=3, status={"data": other | {"fingerprint": "d" * 16}})
    (tmp_path / "d/weights.safetensors").write_bytes(b"damaged")
    page = (report.write([tmp_path], tmp_path / "report") / "report.html").read_text()
    assert "made_up: 2 classes (2 runs, fingerprint ffffffffffff)" in page
    assert "<code>n00000000</code> tabby, tabby cat</li>" in page and "<code>n00000001</code> bee</li>" in page
    assert "made_up: named in the weights of a run that ended, of which none can be read here (1 run" in page
    assert "<script>alert" not in page and "&lt;/ol&gt;&lt;script&gt;" in page


def test_one_run_of_each_data_set_is_asked_for_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for seed in range(6):
        write_run(tmp_path / str(seed), seed=seed, names=["ant", "bee"])
    asked = []
    read = aggregate.described
    monkeypatch.setattr(aggregate, "described", lambda path: asked.append(path) or read(path))
    [data] = aggregate.read([tmp_path]).data
    assert len(asked) == 1 and data.runs == 6 and data.classes == [("n00000000", "ant"), ("n00000001", "bee")]


def test_every_chart_has_its_words_and_every_id_is_the_pages_only_one(made: tuple[Path, Path]):
    page = (made[1] / "report.html").read_text()
    assert len(re.findall(r'<svg[^>]*role="img"[^>]*aria-label="[^"]{60,}"', page)) == page.count("<svg") == 4
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', page)) <= set(ids)


def test_the_page_loads_nothing(made: tuple[Path, Path]):
    page = (made[1] / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!#)', page) and "@import" not in page
    assert set(re.findall(r'https?://[^"\s<]*', page)) <= {"http://www.w3.org/2000/svg"}


def test_the_page_says_what_was_lost_and_what_the_intervals_cover(tmp_path: Path):
    write_sweep(tmp_path, {"relu": [{}] * 3, "scaled 8": [{"outcome": o} for o in LOST]})
    page = (report.write([tmp_path], tmp_path / "report") / "report.html").read_text()
    assert "3 ok, 1 collapsed, 1 exploded, 1 diverged" in page and "0 of 3" in page
    for outcome in LOST:
        assert f"{outcome.capitalize()}: " in page
    assert "initial weights only" in page and "5 to 15 times too narrow" in page
    assert "no test: 3 of 3 runs lost, 0 of 3 of the baseline" in page


def test_the_page_and_the_table_count_pairs_of_unequal_epochs(tmp_path: Path):
    for seed in range(5):
        write_run(tmp_path / f"relu{seed}", seed=seed, val_accuracy=[0.1, 0.2 + seed / 100])
        longer = [0.1, 0.1, 0.2 + seed / 50] if seed < 2 else [0.1, 0.2 + seed / 50]
        write_run(tmp_path / f"scaled{seed}", "scaled", 2.0, seed, val_accuracy=longer)
    out = report.write([tmp_path], tmp_path / "report")
    page = (out / "report.html").read_text()
    assert "2 pairs of runs that trained for different numbers of epochs left out" in page
    assert "3 of 5 (2 of unequal epochs)" in page
    comparisons = pd.read_csv(out / "comparisons.csv")
    assert set(comparisons.unequal_epochs) == {2} and set(comparisons.pairs) == {3}


def test_the_page_shows_the_best_accuracy_beside_the_last(tmp_path: Path):
    write_run(tmp_path / "a", val_accuracy=[0.1, 0.5, 0.3])
    out = report.write([tmp_path], tmp_path / "report")
    assert re.search(r">30.0%</td>\s*<td[^>]*>50.0%</td>", (out / "report.html").read_text())
    [run] = pd.read_csv(out / "runs.csv").to_dict("records")
    assert (run["final_val_accuracy"], run["best_val_accuracy"]) == (0.3, 0.5)


def test_a_baseline_can_be_named(made: tuple[Path, Path], tmp_path: Path):
    report.write([made[0]], tmp_path, baseline="scaled r=2")
    assert set(pd.read_csv(tmp_path / "comparisons.csv").baseline) == {"scaled r=2"}
    with pytest.raises(ValueError, match="no such configuration"):
        report.write([made[0]], tmp_path, baseline="tanh")


@pytest.mark.parametrize("runs", [
    [{"val_accuracy": [0.1]}],
    [{"val_accuracy": []}],
    [{"val_accuracy": [], "outcome": "running"}],
    [{"val_accuracy": [], "outcome": "diverged"}],
    [{"val_accuracy": [0.1], "settings": {"dataset": {"name": "$x_{ <&> $"}}}],
])  # fmt: skip
def test_a_report_of_little(tmp_path: Path, runs: list[dict]):
    assert (report.write([write_sweep(tmp_path, {"relu": runs})], tmp_path / "report") / "report.html").exists()


def test_the_command_fails_only_where_nothing_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "a")
    report.main([str(tmp_path / "a"), str(tmp_path / "missing"), "--out", str(tmp_path / "out")])
    assert "missing</code>: no such folder" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit, match="mlp_sweep.report: .*missing: no such folder"):
        report.main([str(tmp_path / "missing")])


def test_a_report_needs_no_torch(tmp_path: Path):
    write_run(tmp_path / "a", names=["ant", "bee"])
    script = "import sys; from mlp_sweep.report import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_watching_ends_when_nothing_runs_and_leaves_a_page_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "QUIET", 0.0)
    pages = []

    def sleep(_: float) -> None:
        """The sweep goes on while the watcher sleeps: its one run ends."""
        pages.append((tmp_path / "out" / "report.html").read_text())
        shutil.rmtree(tmp_path / "runs")
        write_run(tmp_path / "runs" / "a", val_accuracy=[0.1, 0.2])

    monkeypatch.setattr(report.time, "sleep", sleep)
    write_run(tmp_path / "runs" / "a", outcome="running", val_accuracy=[0.1])
    report.watch([tmp_path / "runs"], tmp_path / "out", 2)
    assert len(pages) == 1 and 'http-equiv="refresh" content="2"' in pages[0] and "1 running" in pages[0]
    last = (tmp_path / "out" / "report.html").read_text()
    assert 'http-equiv="refresh"' not in last and "1 ok" in last


def test_a_sweep_whose_pictures_are_being_prepared_is_watched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "QUIET", 0.0)
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            write_run(tmp_path / "a")

    monkeypatch.setattr(report.time, "sleep", sleep)
    asked.sweep(tmp_path, {tmp_path / "a": {}})
    report.watch([tmp_path], tmp_path / "report", 1)
    assert len(looks) == 3


def test_charts_of_other_runs_are_taken_away(tmp_path: Path):
    write_run(tmp_path / "one", "relu")
    write_run(tmp_path / "two", "scaled", 2.0)
    out = report.write([tmp_path], tmp_path / "report")
    assert (out / "r_sweep.svg").exists()
    shutil.rmtree(tmp_path / "two")
    report.write([tmp_path], out)
    assert not list(out.glob("r_sweep.*")) and pd.read_csv(out / "comparisons.csv").empty


def test_the_title_says_what_was_swept(tmp_path: Path):
    for folder in ("lr", "both", "same"):
        write_run(tmp_path / folder / "a")
        activation = "scaled" if folder == "both" else "relu"
        write_run(tmp_path / folder / "b", activation, seed=1, lr=0.01 if folder == "same" else 0.1)
    titles = {}
    for folder in ("lr", "both", "same"):
        page = (report.write([tmp_path / folder], tmp_path / "out" / folder) / "report.html").read_text()
        titles[folder] = re.findall("<h1>(.*):", page)[0]
    assert titles == {
        "lr": "What the learning rate did",
        "both": "What the activation and the learning rate did",
        "same": "One configuration",
    }


def test_the_commands_are_those_that_can_be_given(tmp_path: Path):
    resumed = ["/x/mlp_sweep/resume.py", "here", "epochs=8"]
    write_run(tmp_path / "a", status={"resumed": resumed})
    write_run(tmp_path / "b", seed=1, status={"command": ["/home/mlp/study.py", "a b"]})
    page = (report.write([tmp_path], tmp_path / "report") / "report.html").read_text()
    assert "python -m mlp_sweep --multirun activation=relu,scaled; python -m mlp_sweep.resume here epochs=8" in page
    assert "/home/mlp/study.py &#39;a b&#39;" in page


def _browse(page: Path, profile: Path) -> tuple[str, list[str], list[str]]:
    """(what the probe found, what the page asked for, what it wrote to the console), by Chromium without a network."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
               "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
               page.as_uri()]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found, asked = re.findall(r'data-found="([^"]*)" data-asked="([^"]*)"', ran.stdout)[0]
    return found, asked.split(), [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


PROBE = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sortable"), found = [];
  for (const column of table ? [2, 2, 0] : []) {
    table.tHead.rows[0].cells[column].firstElementChild.click();
    found.push([...table.tBodies[0].rows].map(row => row.cells[0].textContent.trim()).join(","));
    found.push(table.tHead.rows[0].cells[column].getAttribute("aria-sort"));
  }
  document.body.dataset.found = found.join("|");
  document.body.dataset.asked = performance.getEntriesByType("resource").map(entry => entry.name).join(" ");
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_table_sorts_and_nothing_is_asked_for_or_complained_of(
    made: tuple[Path, Path], tmp_path: Path
):
    page = (made[1] / "report.html").read_text()
    (tmp_path / "probed.html").write_text(page.replace("</body>", PROBE))
    found, asked, console = _browse(tmp_path / "probed.html", tmp_path / "profile")
    assert found.split("|") == [
        "scaled r=9,relu,scaled r=2,scaled r=62", "ascending",  # no figure comes last, either way
        "scaled r=2,relu,scaled r=9,scaled r=62", "descending",
        "relu,scaled r=2,scaled r=9,scaled r=62", "ascending",
    ]  # fmt: skip
    assert console == [] and asked == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_browser_test_would_see_a_request_and_an_error(tmp_path: Path):
    bad = "<body><img src='http://pictures.invalid/a.png'><script>nothing.there()</script>"
    (tmp_path / "bad.html").write_text(bad + PROBE)
    _, asked, console = _browse(tmp_path / "bad.html", tmp_path / "profile")
    assert asked == ["http://pictures.invalid/a.png"] and "nothing is not defined" in "".join(console)
