"""What this process may use: cores and memory, of the machine and of its control groups (containers, batch systems)."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")  # Linux's own account, in /proc and /sys; elsewhere nothing is there


def cores(root: Path = ROOT) -> int:
    """As OMP_NUM_THREADS says, which torch reads too; else those that the system allots.

    Two hardware threads of one core are one: they share the unit that multiplies.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    there = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = root / "sys/devices/system/cpu"
    count = len({_text(topology / f"cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in there})
    for group in _groups(root):
        version_1 = [_text(group / f"cpu.cfs_{key}_us") for key in ("quota", "period")]
        quota, period = _text(group / "cpu.max").split() or version_1
        if quota.isdecimal():  # "max" or -1 where there is none
            count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


def free_memory(root: Path = ROOT) -> int:
    """Bytes that can be had now; half of what is installed where the system does not say, 2 GiB where neither."""
    free = _meminfo(root, "MemAvailable", _installed() // 2 or 2**31)
    for group in _groups(root):
        if limit := _limit(group):
            version_1 = _text(group / "memory.usage_in_bytes")
            used, prefix = (version_1, "total_") if version_1 else (_text(group / "memory.current") or "0", "")
            files = {f"{prefix}active_file", f"{prefix}inactive_file"}  # kept in memory for as long as there is room
            stat = (line.split() for line in _text(group / "memory.stat").splitlines())
            free = min(free, limit - int(used) + sum(int(size) for key, size in stat if key in files))
    return max(0, free)


def total_memory(root: Path = ROOT) -> int:
    """Bytes that can be had at most; 2^63 where the system does not say."""
    return min([_installed() or 2**63, *filter(None, map(_limit, _groups(root)))])


def _installed() -> int:
    """Bytes; 0 where the system does not say (Windows)."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else 0


def open_files() -> None:
    """As many as the system allows: a sweep holds a lock for each of its jobs."""
    with suppress(ImportError):  # not on Windows
        import resource

        soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        for count in (most, max(soft, 10_240)):  # the latter where "unlimited" is more than the kernel takes (macOS)
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
                return


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups and of those around them, of version 1 and 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        top = root / "sys/fs/cgroup" / controllers
        own = top / group.lstrip("/")  # in a container not to be found, where its own group is the top
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _limit(group: Path) -> int:
    """Bytes; 0 where there is none."""
    limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    return int(limit) if limit.isdecimal() else 0


def _meminfo(root: Path, key: str, unknown: int) -> int:
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{key}:"), unknown)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
