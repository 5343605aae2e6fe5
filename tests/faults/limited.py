"""Runs a command with so many more bytes of memory than its imports took; a script: limited.py BYTES MODULE WORDS..."""

import importlib
import resource
import sys

import torch  # noqa: F401 (what it imports on its way, for the limit to be met at work)

from mlp_sweep import report, workers  # noqa: F401


def main() -> None:
    room, module, *words = sys.argv[1:]
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + int(room), resource.RLIM_INFINITY))
    sys.argv = [module, *words]
    importlib.import_module("mlp_sweep.cli" if module == "mlp_sweep" else module).main()


if __name__ == "__main__":  # the processes that it starts import it again
    main()
