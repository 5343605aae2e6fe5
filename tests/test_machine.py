"""Cores and memory, here and in made-up accounts of Linux: containers, batch systems, hardware threads."""

import os
import resource
from pathlib import Path

import pytest

from mlp_sweep import machine

GIB = 2**30


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_as_many_files_as_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        machine.open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def account(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_here():
    assert 1 <= machine.cores() <= len(os.sched_getaffinity(0))
    assert 1 << 20 < machine.free_memory() <= machine.total_memory() < 1 << 50


def test_where_the_system_says_nothing(tmp_path: Path):
    assert machine.cores(tmp_path) == len(os.sched_getaffinity(0))
    assert machine.free_memory(tmp_path) == machine.total_memory(tmp_path) // 2


@pytest.mark.parametrize(("asked", "cores"), [("3", 3), ("0", 8), ("4,2", 8), ("", 8)])
def test_what_torch_is_told_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, cores: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.cores(tmp_path) == cores


def test_hardware_threads_of_one_core_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    siblings = {
        f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}\n" for n in range(8)
    }
    account(tmp_path, siblings)
    for allotted, cores in (({0, 1, 2, 3, 4, 5, 6, 7}, 4), ({1, 5}, 1), ({1, 2, 6}, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allotted=allotted: allotted)
        assert machine.cores(tmp_path) == cores


QUOTAS = {
    "container": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 4),
    "half a core": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "no quota": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "of the group around": (
        {
            "proc/self/cgroup": "0::/batch/job/step\n",
            "sys/fs/cgroup/batch/job/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/batch/job/step/cpu.max": "max 100000\n",
        },
        2,
    ),
    "version 1, whose name inside is another": (
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, no quota": (
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_a_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    files, cores = QUOTAS[name]
    assert machine.cores(account(tmp_path, files)) == cores


def test_memory_that_files_keep_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_installed", lambda: 64 * GIB)
    account(tmp_path, {"proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 33554432 kB\n"})
    assert machine.free_memory(tmp_path) == 32 * GIB and machine.total_memory(tmp_path) == 64 * GIB
    here = "sys/fs/cgroup/"
    account(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            here + "memory.max": f"{8 * GIB}\n",
            here + "memory.current": f"{7 * GIB}\n",
            here + "memory.stat": f"anon {4 * GIB}\nactive_file {2 * GIB}\ninactive_file {GIB}\n",
        },
    )
    assert machine.free_memory(tmp_path) == 4 * GIB and machine.total_memory(tmp_path) == 8 * GIB
    account(tmp_path, {here + "memory.max": "max\n"})
    assert machine.free_memory(tmp_path) == 32 * GIB and machine.total_memory(tmp_path) == 64 * GIB


def test_memory_of_version_1_is_counted_with_the_groups_below(tmp_path: Path):
    here = "sys/fs/cgroup/memory/"
    account(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n",
            "proc/self/cgroup": "4:memory:/job\n",
            here + "memory.limit_in_bytes": "9223372036854771712\n",
            here + "memory.usage_in_bytes": f"{GIB}\n",
            here + "job/memory.limit_in_bytes": f"{2 * GIB}\n",
            here + "job/memory.usage_in_bytes": f"{3 * GIB // 2}\n",
            here + "job/memory.stat": f"active_file 0\ntotal_active_file {GIB // 2}\ntotal_inactive_file {GIB // 4}\n",
        },
    )
    assert machine.free_memory(tmp_path) == 5 * GIB // 4 and machine.total_memory(tmp_path) == 2 * GIB
