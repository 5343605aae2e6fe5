"""Where numbers come from: the code, the libraries, the machine."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from . import __version__


def versions() -> dict[str, str]:
    return {
        "mlp_sweep": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy")},
    }


@functools.cache
def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked when files differ; None outside a checkout."""
    if not (Path(__file__).parent.parent / ".git").exists():
        return None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
