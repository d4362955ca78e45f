"""What the bench tells: a table on the terminal, JSON for programs, a plot for the docs."""

from __future__ import annotations

import datetime
import os
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path

import orjson

from bench.measuring import Table
from bench.plot import number, plot


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def print_heading(facts: dict[str, str], rounds: int) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + f", {rounds} rounds\n", flush=True)


def print_table(table: Table) -> None:
    print(f"{table.part}: {table.title} [{table.unit}, {'more' if table.more_is_better else 'less'} is better]")
    for row in table.rows:
        spread = f"{number(min(row.values))} - {number(max(row.values))}"
        print(f"  {row.name:<34}{row.role:<10}{number(row.median):>12}{spread:>26}")
        for line in textwrap.wrap(row.note, 114):
            print(f"      {line}")
    for goal in table.goals:
        verdict, bound = "reached" if goal.holds else "MISSED", "at least" if goal.at_least else "at most"
        print(f"  {verdict}: {number(goal.found)} {goal.text} (goal: {bound} {goal.limit:g})")
    print(flush=True)


def print_goals(tables: Sequence[Table]) -> None:
    missed = [goal for table in tables for goal in table.goals if not goal.holds]
    print(f"{sum(len(table.goals) for table in tables) - len(missed)} goals reached, {len(missed)} missed")


def write(tables: Sequence[Table], facts: dict[str, str], rounds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"machine": facts, "rounds": rounds, "tables": [table.as_dict() for table in tables]}
    (folder / "bench.json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    (folder / "bench.svg").write_text(plot(tables, facts, rounds), "utf-8")
