"""Trains a sweep in forks of itself, each killed -9 before its n-th file operation; a script, for operations.py.

Each line of stdin, [n, folder, module, words ...] as JSON, is one training (n = 0: not killed). The answer is its
number of operations, 0 where it was killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch  # noqa: F401 (what a training imports, once for all of them)
from hydra.core.plugins import Plugins

from mlp_sweep import cli, report, resume, workers  # noqa: F401
from mlp_sweep.data import synthetic  # noqa: F401

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def train(answer: int, moment: int, folder: str, module: str, *words: str) -> None:
    """In the forked child: counts what is about to change below the folder, by the interpreter's audit events."""
    folder = str(Path(folder).resolve())
    os.chdir(folder)
    done = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal done
        if event == "open":
            path, _, flags = arguments
            counts = isinstance(path, str) and bool(flags & WRITING)
        else:
            path, counts = arguments[0] if arguments else "", event in CHANGES
        if not counts or not os.path.abspath(path).startswith(folder):
            return
        if f"{os.sep}report" in os.path.abspath(path)[len(folder) :]:  # the results are there: the report is cut off
            os.write(answer, f"{done}".encode())
            os._exit(0)
        done += 1
        if done == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = [module, *words]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.addaudithook(watch)
    resume.main() if module == "mlp_sweep.resume" else cli.main()
    os._exit(1)  # no report was begun


def main() -> None:
    Plugins.instance()  # Hydra's look for plugins, which takes longer than the training
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            train(writing, *json.loads(line))
        os.close(writing)
        os.waitpid(child, 0)
        print(os.read(reading, 20).decode() or 0, flush=True)
        os.close(reading)


if __name__ == "__main__":
    main()
