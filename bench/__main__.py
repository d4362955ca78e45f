"""`python -m bench [PART ...]`, `make bench ONLY=worker`: measures, prints one table, writes JSON and SVG."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

import uvloop

from bench import report
from bench.measuring import Table
from bench.place import ROOT, new_place

PARTS = (
    "worker",
    "concurrency",
    "latency",
    "create",
    "end_to_end",
    "streams",
    "fanout",
    "slow_readers",
    "growth",
    "images",
    "files",
    "idle",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; without any: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each part (default 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench", help="folder for bench.json and bench.svg")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    machine = report.machine()
    report.print_heading(machine, given.rounds)
    tables: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="dragon-bench-") as folder, new_place(Path(folder)) as place:
        for part in given.parts or PARTS:
            module = importlib.import_module(f"bench.parts.{part}")
            place.clear()
            for table in uvloop.run(module.measure(place, given.rounds)):
                report.print_table(table)
                tables.append(table)
            report.write(tables, machine, given.rounds, given.out)  # after each part: a whole run takes half an hour
    report.print_goals(tables)


if __name__ == "__main__":
    main()
