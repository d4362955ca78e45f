"""What a task says as lines: joined, cut, cleaned, bounded; and whose it is when many print."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import pytest

from dragon.worker import log_lines
from dragon.worker.log_lines import BURST, KEPT, LogLines, Printed, clean_line
from dragon.worker.logbook import LINE_COST, MOST_BYTES, Logbook

LIMIT = 40


class Said:
    """Where the lines go."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._lines = LogLines(self.frames.append, LIMIT)

    @property
    def texts(self) -> list[str]:
        return [line.split(b" ", 1)[1].decode() for frame in self.frames for line in frame.split(b"\n")]

    def lines(self) -> LogLines:
        return self._lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("as it is: é ✓ \t|", "as it is: é ✓ \t|"),
        ("x" * LIMIT, "x" * LIMIT),
        ("x" * (LIMIT + 1), "x" * (LIMIT - 3) + "…"),
        ("é" * LIMIT, "é" * 18 + "…"),
        ("x" * 1_000_000, "x" * (LIMIT - 3) + "…"),
        ("\x1b[1;31mred\x1b[0m\x1b[2K", "red"),
        ("a\x00b\x07c\x7f\nd", "abcd"),
        ("\ud800 alone", "? alone"),
        (" 10 %\r 20 %\r 30 %", " 30 %"),
        ("windows\r", "windows"),
        ("overwritten " * 1000 + "\rlast", "last"),
    ],
)
def test_a_line_is_clean_and_no_longer_than_the_limit(text: str, line: str) -> None:
    assert clean_line(text, LIMIT).decode() == line
    assert len(clean_line(text, LIMIT)) <= LIMIT


def test_what_is_printed_in_pieces_is_joined_and_the_last_piece_comes_with_the_end() -> None:
    said = Said()
    lines = said.lines()
    for piece in ("a", "b\nc", "", "d", "\n\n", "e\nf\ng", "h"):
        lines.write(piece)
    assert said.texts == ["ab", "cd", "", "e", "f"]
    lines.log("logged meanwhile")
    lines.close()
    assert said.texts[5:] == ["logged meanwhile", "gh"]
    lines.write("late\n")
    lines.log("late")
    lines.close()
    assert len(said.texts) == 7


@pytest.mark.parametrize("bar", ["\r{} %", "{} %\r"])
def test_a_progress_bar_is_one_line_and_holds_no_memory(bar: str) -> None:
    said = Said()
    lines = said.lines()
    for percent in range(100):
        lines.write(bar.format(percent))
        assert len(lines._unfinished) <= 5
    for _ in range(1000):
        lines.write("x" * 100)
        assert len(lines._unfinished) <= 4 * LIMIT + 1
    lines.write("\r100 %\n")
    assert said.texts == ["100 %"]


def test_lines_have_the_time_when_they_were_said() -> None:
    said, before = Said(), time.time_ns() // 1000
    said.lines().log("now")
    (frame,) = said.frames
    assert before <= int(frame.split(b" ")[0]) <= time.time_ns() // 1000


def test_of_a_flood_the_first_and_the_newest_lines_come_and_how_many_were_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_lines.time, "monotonic", lambda: 0.0)  # all at once, however slow this machine is
    said = Said()
    lines = said.lines()
    count = 50 * BURST
    for number in range(count):
        lines.write(f"{number}\n")
        assert len(lines._kept) <= KEPT
    sent = len(said.texts)
    assert sent < 2 * BURST, "a fast machine says all this in much less than the five seconds that a second burst takes"
    lines.close()
    texts = said.texts
    at = next(i for i, text in enumerate(texts) if "dropped" in text)
    assert texts[:BURST] == [str(number) for number in range(BURST)]
    assert texts[-KEPT:] == [str(number) for number in range(count - KEPT, count)]
    told = sum(int(text.split()[1]) for text in texts if "dropped" in text)
    assert told == count - sum("dropped" not in text for text in texts), "each one is accounted for"
    assert texts[at].endswith("lines were dropped: too many at once")
    assert all(len(frame.split(b"\n")) <= KEPT + 2 for frame in said.frames)


def test_after_a_rest_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(log_lines.time, "monotonic", lambda: now)
    said = Said()
    lines = said.lines()
    for number in range(BURST + KEPT + 1):
        lines.log(str(number))
    assert len(said.texts) == BURST
    now = 2.0
    lines.log("after a rest")
    assert said.texts[BURST] == "… 1 line was dropped: too many at once"
    assert said.texts[BURST + 1 :] == [str(n) for n in range(BURST + 1, BURST + KEPT + 1)] + ["after a rest"]


def test_long_lines_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines.time, "monotonic", lambda: 0.0)
    frames: list[bytes] = []
    lines = LogLines(frames.append, 16 * 1024)
    for _ in range(BURST):
        lines.log("x" * 16_000)
    assert sum(map(len, frames)) < log_lines.BURST_BYTES + 20_000


def test_a_text_may_print_while_it_is_made_and_a_signal_handler_while_it_is_said() -> None:
    said = Said()

    class Loud:
        def __str__(self) -> str:
            lines.log("from inside")
            return "loud"

    def send(frame: bytes) -> None:
        said.frames.append(frame)
        if len(said.frames) == 1:
            lines.write("from a handler\n")

    lines = LogLines(send, LIMIT)
    lines.log(str(Loud()))
    lines.close()
    assert said.texts == ["from inside", "from a handler", "loud"]


async def test_each_of_many_async_tasks_prints_into_its_own_log() -> None:
    stream = io.StringIO()
    printed = Printed(stream, lambda: False)
    said = [Said() for _ in range(5)]

    async def speak(number: int) -> None:
        printed.begin_here(said[number])
        for word in ("one", "two"):
            printed.write(f"{number} ")
            await asyncio.sleep(0)
            printed.write(f"{word}\n")
        await asyncio.to_thread(printed.write, f"{number} thread\n")

    printed.write("nobody's\n")
    await asyncio.gather(*(asyncio.create_task(speak(number)) for number in range(5)))
    printed.write("nobody's again\n")
    assert [one.texts for one in said] == [[f"{n} one", f"{n} two", f"{n} thread"] for n in range(5)]
    assert stream.getvalue() == "nobody's\nnobody's again\n"


def test_what_a_copy_or_a_leftover_thread_prints_goes_where_it_went_before() -> None:
    stream, said, is_copy = io.StringIO(), Said(), False
    printed = Printed(stream, lambda: is_copy)
    lines = said.lines()
    printed._only = said
    printed.write("a task's\n")
    is_copy = True
    printed.write("a copy's\n")
    is_copy = False
    lines.close()
    printed.write("after its end\n")
    printed.end()
    printed.write("nobody's\n")
    assert said.texts == ["a task's"]
    assert stream.getvalue() == "a copy's\nafter its end\nnobody's\n"


def stamped(*texts: str) -> bytes:
    return "\n".join(f"123 {text}" for text in texts).encode()


def taken(book: Logbook) -> list[tuple[str, int, float, list[bytes]]]:
    return [(key, attempt, timeout, [text for _, text in lines]) for key, attempt, timeout, lines in book.take()]


def test_the_logbook_gathers_by_task_and_attempt_in_the_order_of_the_lines() -> None:
    book = Logbook()
    assert not book
    book.add("A", 1, 60.0, stamped("one", "two"))
    book.add("B", 3, 5.0, stamped("b"))
    book.add("A", 1, 60.0, stamped("three"))
    book.add("A", 2, 60.0, stamped("again"))
    assert book
    assert taken(book) == [
        ("A", 1, 60.0, [b"1 123 one", b"1 123 two", b"1 123 three"]),
        ("B", 3, 5.0, [b"3 123 b"]),
        ("A", 2, 60.0, [b"2 123 again"]),
    ]
    assert not book
    assert book.take() == []


def test_marks_are_nobody_elses_and_go_up() -> None:
    book, other = Logbook(), Logbook()
    marks: list[Any] = []
    for one in (book, book, other):
        one.add("A", 1, 1.0, stamped(*("x" for _ in range(600))))
        marks.append([mark for write in one.take() for mark, _ in write.lines])
    assert marks[0] + marks[1] == list(range(marks[0][0], marks[0][0] + 1200))
    assert {len(str(mark)) for some in marks for mark in some} == {19}
    assert str(marks[0][0])[:9] != str(marks[2][0])[:9]


def test_a_logbook_that_cannot_be_written_stays_small_and_says_what_it_dropped() -> None:
    book, line = Logbook(), "x" * 4000
    fitting = MOST_BYTES // (len(stamped(line)) + LINE_COST) + 1
    for _ in range(fitting + 10):
        book.add("A", 1, 1.0, stamped(line))
    book.add("B", 1, 1.0, stamped("b", "b"))
    writes = book.take()
    assert sum(len(write.lines) for write in writes) == fitting + 2
    assert writes[-2].lines[-1][1].endswith("… 10 lines were dropped: too many at once".encode())
    assert [text.split(b" ", 2)[2].decode() for _, text in writes[-1].lines] == [
        "… 2 lines were dropped: too many at once"
    ]
    book.add("A", 1, 1.0, stamped("after"))
    assert taken(book) == [("A", 1, 1.0, [b"1 123 after"])]
