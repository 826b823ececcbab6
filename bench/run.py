"""Runs the benches named (all by default) and prints one table."""

import os
import platform
import sys
from datetime import UTC, datetime

import child
import command_line
import fire_time
import identities
import mirror
import reload
import scale
import tokens
from measure import table

BENCHES = {
    "command_line": command_line.figures,
    "scale": scale.figures,
    "reload": reload.figures,
    "mirror": mirror.figures,
    "fire_time": fire_time.figures,
    "child": child.figures,
    "tokens": tokens.figures,
    "identities": identities.figures,
}


def main() -> None:
    """Takes about five minutes for all."""
    names = sys.argv[1:] or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    found = [figure for name in names for figure in BENCHES[name]()]
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print(table(found))


if __name__ == "__main__":
    main()
