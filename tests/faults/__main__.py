"""python -m tests.faults --kills 50 --seed 1: every kind of fault; a table, and status 1 if one was not survived."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import corruption, disks, fuzz, kills, memory, operations, races

KINDS = {
    "kills": kills.run,
    "extended": kills.extended,
    "operations": lambda _, seed, folder: operations.run(None, seed, folder),  # at every one of them
    "extended-operations": lambda _, seed, folder: operations.extended(None, seed, folder),
    "disks": disks.run,
    "read-only": disks.read_only,
    "memory": memory.run,
    "corruption": corruption.run,
    "races": races.run,
    "fuzz": fuzz.run,
}
HEAD = "| fault | tried | survived | finished epochs lost |\n|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="at random moments; a third as many of each other fault")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            count = args.kills if name == "kills" else -(-args.kills // 3)
            started = time.monotonic()
            outcome = KINDS[name](count, args.seed, Path(folder))
            outcomes.append(outcome)
            print(f"{outcome.fault}: {outcome.survived} of {outcome.tried}, {time.monotonic() - started:.0f} s",
                  *outcome.failures, sep="\n  ", file=sys.stderr, flush=True)  # fmt: skip
    print(HEAD, *(outcome.row() for outcome in outcomes), sep="\n")
    sys.exit(any(outcome.failures or not outcome.tried for outcome in outcomes))


if __name__ == "__main__":
    main()
