"""Tasks that behave and misbehave in every way that the tests need."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from dragon.task import AsyncContext, Context, HttpUrl, OutputFile, TaskError, task


@task("test.echo")
def echo(
    ctx: Context,
    text: str = "",
    number: int = 0,
    ratio: float = 0.0,
    flag: bool = False,
    words: list[str] | None = None,
    url: HttpUrl | None = None,
    name: str = "",
    key: str = "",
) -> Any:
    """Give back what came in."""
    return {
        "text": text,
        "number": number,
        "ratio": ratio,
        "flag": flag,
        "words": words,
        "url": url,
        "name": name,
        "key": key,
    }


@task("test.value")
def value(ctx: Context, kind: str = "null") -> Any:
    """Return a value that is easily taken for none."""
    return {"null": None, "zero": 0, "empty": "", "false": False, "list": [], "object": {}}[kind]


@task("test.progress")
def progress(ctx: Context, steps: int = 3, delay: float = 0.02) -> str:
    """Report progress, `null` first."""
    ctx.progress(None)
    for step in range(steps):
        time.sleep(delay)
        ctx.progress({"step": step})
    return "done"


@task("test.sleep", timeout=60)
def sleep(ctx: Context, seconds: float = 0.1) -> float:
    """Take a while, in a `def` task."""
    ctx.progress("asleep")
    time.sleep(seconds)
    return seconds


@task("test.async_sleep", timeout=60)
async def async_sleep(ctx: AsyncContext, seconds: float = 0.1) -> float:
    """Take a while, in an `async def` task."""
    ctx.progress("asleep")
    await asyncio.sleep(seconds)
    return seconds


@task("test.count_starts", max_attempts=3)
def count_starts(ctx: Context, path: str, seconds: float = 0.0) -> int:
    """Note each start in a file, and then take a while."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.key} {ctx.attempt}\n")
    time.sleep(seconds)
    return ctx.attempt


@task("test.raise")
def raise_(ctx: Context) -> None:
    """Fail with an exception that the client must not see."""
    raise RuntimeError("a secret detail")


@task("test.task_error")
def task_error(ctx: Context, message: str = "meant for the client") -> None:
    """Fail with a message for the client."""
    raise TaskError(message)


@task("test.unserializable")
def unserializable(ctx: Context) -> Any:
    """Return something that JSON cannot say."""
    return {"an object": object()}


@task("test.large")
def large(ctx: Context, size: int) -> str:
    """Return a large result."""
    return "x" * size


@task("test.print")
def print_(ctx: Context) -> str:
    """Write to standard output and error, and close them."""
    print("x" * 100_000)
    print("to stderr", file=sys.stderr)
    with contextlib.suppress(OSError):
        os.close(1)
    return "printed"


@task("test.say")
def say(ctx: Context, texts: list[str], gate: str = "", more: list[str] | None = None) -> int:
    """Log each text; wait until the file `gate` is there, and log `more`."""
    for text in texts:
        ctx.log(text)
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    for text in more or ():
        ctx.log(text)
    return ctx.attempt


@task("test.async_say")
async def async_say(ctx: AsyncContext, texts: list[str], gate: str = "", more: list[str] | None = None) -> int:
    """The same, printed, in an `async def` task; the last text is no whole line, and comes from a thread."""
    for text in texts:
        print(text[:1], end="")
        await asyncio.sleep(0)  # others print, too
        print(text[1:])
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.01)
    for text in more or ():
        await asyncio.to_thread(sys.stderr.write, text)
    return ctx.attempt


@task("test.prints")
def prints(ctx: Context, how: str = "all") -> None:
    """Print in every way that Python has: `all`; very much (`flood`); in a process of its own (`copy`); and crash."""
    if how == "flood":
        for number in range(20_000):
            print(number)
        return
    if how == "copy":
        child = os.fork()
        print("from a copy" if child == 0 else "from the task")
        if child:
            os.waitpid(child, 0)
        return
    if how == "crash" and ctx.attempt == 1:
        time.sleep(0.2)  # the start is written, and takes no line along
        print("about to crash")
        os._exit(1)
    print("standard", "output", 1, sep=" ", end="")
    print(" in two parts")
    print("standard error", file=sys.stderr)
    ctx.log("logged", 2, None, {"a": "b"})
    ctx.log("two\nlines")
    ctx.log()
    print("\r 10 %\r 20 %", end="")
    print("\r 30 %")
    print("\x1b[31mred\x1b[0m and \x00 and \ttab \ud800")
    sys.stdout.buffer.write("bytes é\n".encode())
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print("y" * 10_000)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("some.library").warning("a library's warning")
    print("no newline", end="")


@task("test.trace")
def trace(ctx: Context) -> str | None:
    """Tell the place in a trace."""
    return ctx.traceparent


@task("test.async_trace")
async def async_trace(ctx: AsyncContext) -> str | None:
    """The same."""
    return ctx.traceparent


@task("test.exit")
def exit_(ctx: Context) -> None:
    """Leave with sys.exit."""
    sys.exit(3)


@task("test.die", max_attempts=2)
def die(ctx: Context, how: str = "exit") -> None:
    """End the process: `exit` with a code, `kill` by a signal."""
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


@task("test.die_once", max_attempts=3)
def die_once(ctx: Context) -> int:
    """Crash on the first attempt only."""
    if ctx.attempt == 1:
        os._exit(1)
    return ctx.attempt


@task("test.never_ends", timeout=1)
def never_ends(ctx: Context) -> None:
    """Loop for ever, ignoring SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.1)


@task("test.async_never_ends", timeout=1)
async def async_never_ends(ctx: AsyncContext) -> None:
    """Refuse to be cancelled."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@task("test.async_blocks", timeout=1)
async def async_blocks(ctx: AsyncContext) -> None:
    """Block the event loop of all `async def` tasks."""
    while True:
        time.sleep(0.1)


@task("test.spawn", timeout=60)
def spawn(ctx: Context, path: str, detached: bool = False, seconds: float = 60) -> None:
    """Start a process of one's own, note its pid, and wait."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=detached)
    Path(path).write_text(f"{os.getpid()} {process.pid}")
    time.sleep(seconds)


@task("test.preloaded", preload=("colorsys",))
def preloaded(ctx: Context) -> bool:
    """Tell whether the module was there already."""
    return "colorsys" in sys.modules


@task("test.environment")
def environment(ctx: Context) -> Any:
    """Tell the names in the environment."""
    return sorted(os.environ)


@dataclasses.dataclass
class TwoFiles:
    """Two output files and a number."""

    small: OutputFile
    large: OutputFile
    count: int


@task("test.two_files")
def two_files(ctx: Context, text: str = "text") -> TwoFiles:
    """Write two output files."""
    small, large = ctx.output_file("small", ".txt"), ctx.output_file("large", ".txt")
    small.path.write_text(text)
    large.path.write_text(text * 1000)
    return TwoFiles(small, large, 2)


@dataclasses.dataclass
class OneFile:
    """One output file and nothing else."""

    output: OutputFile


@task("test.file")
def file(ctx: Context, text: str = "text", extension: str = ".txt", seconds: float = 0.0) -> OneFile:
    """Write one output file after a while."""
    time.sleep(seconds)
    output = ctx.output_file("output", extension)
    output.path.write_text(text)
    return OneFile(output)


@task("test.forgets_file")
def forgets_file(ctx: Context) -> OneFile:
    """Declare an output file and not write it."""
    return OneFile(ctx.output_file("output", ".txt"))


@task("test.fetch")
def fetch(ctx: Context, url: HttpUrl) -> int:
    """Download and tell the size."""
    return ctx.fetch(url).stat().st_size


@task("test.async_fetch")
async def async_fetch(ctx: AsyncContext, urls: list[HttpUrl]) -> list[int]:
    """Download several at a time and tell the sizes."""
    paths = await asyncio.gather(*(ctx.fetch(url) for url in urls))
    return [path.stat().st_size for path in paths]


@task("test.high", queue="high")
def high(ctx: Context) -> str:
    """Run in the urgent queue."""
    return "high"


@task("test.low", queue="low")
def low(ctx: Context) -> str:
    """Run in the patient queue."""
    return "low"


@task("test.scratch")
def scratch(ctx: Context) -> str:
    """Leave a file in the scratch folder and tell where that is."""
    (ctx.scratch / "left").write_text("x")
    return str(ctx.scratch)


def _mark(path: str, ctx: Context | AsyncContext, what: str) -> None:
    """One line a start or an end; a line this short is appended as a whole, whoever else writes."""
    with Path(path).open("a") as file:
        file.write(f"{ctx.key} {ctx.attempt} {what} {time.time()}\n")


@task("test.mark", timeout=120, max_attempts=50)
def mark(ctx: Context, path: str, seconds: float = 0.0, reports: int = 0) -> int:
    """Note the start and the end in a file, and report progress in between."""
    _mark(path, ctx, "start")
    for step in range(reports):
        time.sleep(seconds / (reports + 1))
        ctx.progress(step)
    time.sleep(seconds / (reports + 1))
    _mark(path, ctx, "end")
    return ctx.attempt


@task("test.async_mark", timeout=120, max_attempts=50)
async def async_mark(ctx: AsyncContext, path: str, seconds: float = 0.0, reports: int = 0) -> int:
    """The same, in an `async def` task."""
    _mark(path, ctx, "start")
    for step in range(reports):
        await asyncio.sleep(seconds / (reports + 1))
        ctx.progress(step)
    await asyncio.sleep(seconds / (reports + 1))
    _mark(path, ctx, "end")
    return ctx.attempt


@task("test.gated_file", timeout=120, max_attempts=10)
def gated_file(ctx: Context, gate: str) -> OneFile:
    """Wait until GATE.1 is there, GATE.2 in later attempts, and write the attempt into an output file."""
    while not Path(f"{gate}.{min(ctx.attempt, 2)}").exists():
        time.sleep(0.01)
    output = ctx.output_file("output", ".txt")
    output.path.write_text(f"attempt {ctx.attempt}")
    return OneFile(output)


@task("test.gated_file_once", timeout=120, max_attempts=1)
def gated_file_once(ctx: Context, gate: str) -> OneFile:
    """The same, with a single attempt."""
    return gated_file(ctx, gate)


@task("test.mark_twice", timeout=120, max_attempts=2)
def mark_twice(ctx: Context, path: str, seconds: float = 0.0) -> None:
    """Note the start and the end in a file; two attempts and no more."""
    _mark(path, ctx, "start")
    time.sleep(seconds)
    _mark(path, ctx, "end")


@task("test.hog")
def hog(ctx: Context, how: str = "block") -> int:
    """Want all memory there is: one `block`, many, or `small` pieces."""
    if how == "block":
        return len(bytearray(1 << 40))
    pieces = []
    while True:
        # Quickly: else the bound of CPU time, a second in the tests, may come first.
        pieces.append(bytearray(1000 if how == "small" else 1 << 20))


@task("test.async_hog")
async def async_hog(ctx: AsyncContext) -> int:
    """The same, beside others."""
    pieces = []
    while True:
        pieces.append(bytearray(1 << 20))
        await asyncio.sleep(0)


@task("test.burn", timeout=120)
def burn(ctx: Context, how: str = "loop", seconds: float = 600) -> None:
    """Compute: in a `loop`, in one call that holds the interpreter (`power`), in a `regex`, ignoring the signal."""
    if how == "ignore":
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    if how == "power":
        pow(3, 1 << 40)
    if how == "regex":
        re.fullmatch("(a+)+b", "a" * 64)
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


@task("test.async_burn", timeout=120)
async def async_burn(ctx: AsyncContext) -> None:
    """Compute, and let none of the others have its turn."""
    pow(3, 1 << 40)


@task("test.fill")
def fill(ctx: Context, size: int) -> int:
    """Write one file of that many bytes."""
    with (ctx.scratch / "full").open("wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return size


@task("test.bomb", timeout=30)
def bomb(ctx: Context, how: str = "fork", most: int = 2000) -> None:
    """Start processes that start processes, `most` of them if nobody stops it; `session`: each in a session of its own;
    `double`: each an orphan in one, too."""
    taken, given = os.pipe()
    os.write(given, b"." * most)  # each takes one of them, so that there are never more
    os.set_blocking(taken, False)
    while True:
        try:
            os.read(taken, 1)
        except BlockingIOError:
            time.sleep(600)
        if how == "wide":
            subprocess.Popen(["sleep", "600"])
            child = os.getpid()
        else:
            child = os.fork()
        if child == 0 and how != "fork":
            os.setsid()
            if how == "double" and os.fork() > 0:
                os._exit(0)


@task("test.leave")
def leave(ctx: Context, path: str, how: str = "child") -> int:
    """Succeed, and leave a process behind: a `child`, one in a session of its own (`session`), an orphan (`double`)."""
    file = Path(path)
    if how == "double":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                file.write_text(f"{os.getpid()}")
                time.sleep(600)
            os._exit(0)
        os.wait()
    else:
        file.write_text(str(subprocess.Popen(["sleep", "600"], start_new_session=how == "session").pid))
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    return os.getpid()


@task("test.async_leave")
async def async_leave(ctx: AsyncContext, path: str) -> int:
    """The same from an `async def` task."""
    process = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    Path(path).write_text(str(process.pid))
    return os.getpid()


@task("test.fork_on")
def fork_on(ctx: Context) -> int:
    """Fork, and let the copy go on as if it were the task."""
    return os.fork()


@task("test.bounds")
def bounds_(ctx: Context) -> Any:
    """Tell the kernel's limits on this process."""
    import resource

    names = ("RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_CORE")
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


@task("test.pid")
def pid(ctx: Context) -> int:
    """Tell the executor's number."""
    return os.getpid()


@task("test.flood", timeout=600)
def flood(ctx: Context, seconds: float, size: int = 20_000) -> None:
    """Report progress of so many bytes twice a second."""
    for number in range(round(2 * seconds)):
        time.sleep(0.5)
        ctx.progress({"number": number, "padding": "x" * size})
