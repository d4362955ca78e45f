"""The figures that docs/guarantees.md gives: tests note them, `make faults` runs the full forms and writes the table.

`make test` runs the short forms. FAULTS_SEED=N repeats the random choices of a run.
"""

from __future__ import annotations

import datetime
import os
import platform
import random
import sys
from pathlib import Path

import orjson

#: Whether the full forms run.
FULL = os.environ.get("FAULTS_FULL") == "1"

BEGIN, END = "<!-- figures: written by `make faults` -->", "<!-- end of figures -->"

#: What is promised, by the name under which tests note figures: the fault or attack, and the figure asked for.
GUARANTEES: dict[str, tuple[str, str]] = {
    "1": ("pause and kill -9 at every step of a task's life: server, worker, executor", "each ends, within 15 s"),
    "2": (
        "kill -9 of a random worker or executor every 0.25-1 s",
        "0 lost, 0 stuck, one final line each, at most 0.5 extra starts a kill, settled within 15 s",
    ),
    "3": ("a dead worker's tasks start elsewhere", "p50 within 6 s, at most 10 s"),
    "4": ("kill -9 of Redis under load", "0 acknowledged tasks lost, open streams continue or end rightly"),
    "5": ("kill -9 of the server under open streams", "every final status, nothing left behind after 30 s"),
    "6": ("a worker stopped for 30 s, then continued", "the final status never changes, the loser's files go"),
    "7": (
        "the reply of every k-th Redis write dropped, server and worker",
        "nothing queued twice, nothing lost, counters and quotas exact",
    ),
    "8": ("Redis hung for 20 s", "503 within 6 s, recovery within 10 s, no restart"),
    "9": (
        "20% of the pub/sub messages lost, the connection cut every second",
        "every final line, at most 15 s late, in order",
    ),
    "10": ("tasks that end at a random instant around the opening of their stream", "0 hangs, one final line each"),
    "11": (
        "SIGTERM with open streams and running tasks",
        "out within 10 s, streams end cleanly, nothing lost",
    ),
    "12": ("streams left mid-way", "followers, file descriptors, memory back to where they were"),
    "13": ("disk full, output folder gone, clock set back an hour", "clear error statuses, leases unimpressed"),
    "14": ("a tenant sends ten times its limit for 30 s", "another's start delay at most doubles, limits exact"),
    "addresses": ("forms of addresses that are not public, in every place where a URL goes in", "0 hits, one message"),
    "rebinding": ("names that resolve to something else at each look", "0 hits"),
    "bombs": ("files made to exhaust", "an error within 10 s, at most 300 MB, scratch empty, the worker serves on"),
    "fuzz": ("requests by hypothesis, schemathesis and raw sockets", "0 answers of 5xx, 0 hangs, errors in shape"),
    "slow": (
        "connections that trickle headers, bodies or reads for 60 s",
        "the others' p99 at most doubles, all cut within 30 s",
    ),
    "cells": ("endpoint x credentials x tenant x referrer", "exactly as the contract says"),
    "mutations": ("changed signed URLs", "0 accepted"),
    "secrets": (
        "canary secrets",
        "in no log, error, argv, environment of executors, metric, redirect, nor clear in Redis",
    ),
    "boundary": ("jobs planted in Redis: pickles, function names, callbacks", "nothing imported, nothing run"),
    "outputs": ("SVG, HTML and polyglot outputs opened in Chromium", "no script runs"),
}


def scale(full: int, short: int) -> int:
    """How many of something: the issue's figure in the full form, fewer in the form for each CI run."""
    return full if FULL else short


def seeded() -> random.Random:
    """Random choices that can be repeated: the seed is printed, and pytest shows it when the test fails."""
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(1 << 32))
    print(f"FAULTS_SEED={seed}")
    generator = random.Random(seed)
    generator.printed_seed = seed  # type: ignore[attr-defined]
    return generator


def note(guarantee: str, done: str, found: str, chance: random.Random | None = None) -> None:
    """Notes what was done and what was found for one guarantee; several notes of one become several rows."""
    assert guarantee in GUARANTEES, f"unknown guarantee {guarantee!r}"
    print(f"{guarantee}: {done}: {found}")
    file = os.environ.get("FAULTS_FIGURES")
    if file:
        seed = getattr(chance, "printed_seed", None)
        with Path(file).open("ab") as appended:
            appended.write(orjson.dumps([guarantee, done, found, seed]) + b"\n")


def table(notes: list[list[str | int | None]]) -> str:
    """The notes as a table in Markdown, in the order of GUARANTEES."""
    order = list(GUARANTEES)
    rows = ["| # | fault or attack | asked for | done | found | seed |", "|---|---|---|---|---|---|"]
    for guarantee, done, found, seed in sorted(notes, key=lambda one: order.index(str(one[0]))):
        title, goal = GUARANTEES[str(guarantee)]
        rows.append(f"| {guarantee} | {title} | {goal} | {done} | {found} | {'' if seed is None else seed} |")
    return "\n".join(rows)


def _write(file: Path, document: Path) -> None:
    notes = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    today = datetime.datetime.now(datetime.UTC).date()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release().split('-')[0]}"
    text = f"Measured on {today}, {machine}, CPython {platform.python_version()}.\n\n{table(notes)}\n"
    print(text)
    before, _, rest = document.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
