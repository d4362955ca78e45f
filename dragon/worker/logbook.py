"""The log lines of all tasks of a worker, from their executors until they are written."""

from __future__ import annotations

from collections import Counter

from dragon.store.logs import LINES_A_RUN, LogWrite, new_marks
from dragon.worker.log_lines import dropped_line, stamped

MOST_BYTES = 8 << 20  # that wait at most, as while Redis is away; what comes then is dropped
LINE_COST = 100  # bytes that a line costs beside its own


class Logbook:
    """Lines that wait. Each gets the mark by which the store knows it again."""

    def __init__(self) -> None:
        self._marks = new_marks()
        self._bytes = 0
        self._waiting: dict[tuple[str, int], tuple[float, list[bytes]]] = {}  # by key and attempt: timeout, lines
        self._dropped: Counter[tuple[str, int]] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, key: str, attempt: int, timeout: float, payload: bytes) -> None:
        """Takes in what stands in a LOG frame; `timeout` is the task's, in seconds."""
        task = (key, attempt)
        _, lines = self._waiting.setdefault(task, (timeout, []))
        new = payload.split(b"\n")
        if self._bytes > MOST_BYTES:
            self._dropped[task] += len(new)
            return
        self._bytes += len(payload) + LINE_COST * len(new)
        if task in self._dropped:
            new.insert(0, stamped(dropped_line(self._dropped.pop(task))))
        lines += new

    def take(self) -> list[LogWrite]:
        """All that wait, in their order."""
        for task, count in self._dropped.items():
            self._waiting[task][1].append(stamped(dropped_line(count)))
        self._dropped.clear()
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        writes = []
        for (key, attempt), (timeout, lines) in waiting.items():
            for first in range(0, len(lines), LINES_A_RUN):
                some = [(next(self._marks), b"%d %s" % (attempt, line)) for line in lines[first : first + LINES_A_RUN]]
                writes.append(LogWrite(key, attempt, timeout, some))
        return writes
