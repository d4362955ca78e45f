"""Clients that follow and never read: what they cost the server, and the clients beside them.

Stuck clients are as over a network: packets of 1,460 bytes and the smallest receive buffer. Else the kernel of this
machine would take a megabyte for each of them, and the server would not notice that they are stuck.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.direct import Direct, connect
from bench.followers import Heard, Stream, allow_files, follow, numbered, open_streams, percentile
from bench.measuring import Candidate, Goal, Row, Table, alternate
from bench.place import Place
from dragon.store.tasks import Reserved

READING = 1_000  # clients that read, always
STUCK = 1_000  # clients beside them, or not
TASKS = 50  # shared by all: 20 of either kind follow the same one
SIZE = 8_000  # bytes of a line's result
FLOOD = 60  # lines to each task that fill all buffers, the next when those who read have the one before
LINES = 10  # lines to each task that are timed
PAUSE = 0.01  # seconds between two of those
SETTLING = 0.5  # seconds
ROUNDS = 2
PATIENCE = 30.0  # seconds for a line
PATIENT = {"DRAGON_SERVER__CLIENT_TIMEOUT": "600"}  # else the stuck ones would be cut after twenty seconds
LOOKED_AT = 20  # stuck clients that read in the end, to see that they were stuck


class Readers:
    """Streams that read, spread over the tasks. A line that was skipped is there when a newer one is."""

    def __init__(self, tasks: Sequence[Reserved], count: int) -> None:
        self.latencies: list[float] = []  # seconds, of the lines since `begin`
        self.streams: list[Stream] = []
        self._keys = [tasks[index % len(tasks)].key for index in range(count)]
        self._newest = [-1] * count
        self._written: dict[str, list[float]] = {task.key: [] for task in tasks}  # when, by task and number
        self._first = 0  # number that is timed

    async def follow(self, port: int) -> None:
        wanted = [(follow(key), self._hearer(index, key)) for index, key in enumerate(self._keys)]
        self.streams = await open_streams(port, wanted)

    def written(self, task: Reserved, moment: float) -> None:
        """A line of a task is written now."""
        self._written[task.key].append(moment)

    def begin(self, number: int) -> None:
        """The lines from this number on are timed; all have what was before."""
        self._first = number
        self.latencies.clear()

    async def have(self, number: int) -> None:
        """Waits until all have the line of this number. Raises TimeoutError when one does not get it."""
        async with asyncio.timeout(PATIENCE):
            while min(self._newest) < number:
                await asyncio.sleep(0.002)

    def _hearer(self, index: int, key: str) -> Heard:
        def heard(number: int, moment: float) -> None:
            first = max(self._newest[index] + 1, self._first)
            self.latencies += [moment - written for written in self._written[key][first : number + 1]]
            self._newest[index] = number

        return heard


@dataclass(frozen=True, slots=True)
class Found:
    """What one play of the scene gave."""

    p99: float  # ms, of those who read
    user: float  # bytes by which the server process has grown
    kernel: float  # bytes by which all TCP buffers of the machine have grown, both ends


async def measure(place: Place, rounds: int) -> list[Table]:
    allow_files(READING + STUCK)
    found: dict[bool, list[Found]] = {True: [], False: []}

    async def beside_stuck() -> float:
        found[True].append(await play(place, STUCK))
        return found[True][-1].p99

    async def alone() -> float:
        found[False].append(await play(place, 0))
        return found[False][-1].p99

    table = Table("slow_readers", f"p99 of a line of {SIZE:,} bytes to {READING:,} readers", "ms", more_is_better=False)
    note = f"{LINES * TASKS} lines, one in {1000 * PAUSE:.0f} ms, to {READING // TASKS} of them each"
    stuck = f"dragon, beside {STUCK:,} stuck ones"
    table.rows = await alternate(
        [Candidate(stuck, "dragon", beside_stuck, note), Candidate("dragon, alone", "dragon", alone, note)],
        min(rounds, ROUNDS),
    )
    ratio = table.row(stuck).median / table.row("dragon, alone").median
    table.goals.append(Goal("times the p99 without stuck readers", ratio, 2, at_least=False))
    return [table, memory_table(found[True])]


def memory_table(found: Sequence[Found]) -> Table:
    written = f"{(FLOOD + LINES) * SIZE / 1024:,.0f} KiB of lines for each"
    table = Table("slow_readers", f"what {STUCK:,} stuck readers hold, each, of {written}", "KiB", more_is_better=False)
    user = tuple(one.user / STUCK / 1024 for one in found)
    kernel = tuple(one.kernel / STUCK / 1024 for one in found)
    table.rows.append(Row("dragon", "dragon", user, "growth of the server's PSS, all of it counted as theirs"))
    table.rows.append(Row("TCP buffers", "dragon", kernel, "in the kernel, the client's end included"))
    table.goals.append(Goal("KiB of server memory a stuck reader", table.row("dragon").median, 32, at_least=False))
    return table


async def play(place: Place, stuck_count: int) -> Found:
    place.clear()
    async with connect(place.url) as direct, place.server(**PATIENT) as (child, port):
        tasks = await direct.start(TASKS)
        readers = Readers(tasks, READING)
        await readers.follow(port)
        stuck = [await open_stuck(port, tasks[index % TASKS].key) for index in range(stuck_count)]
        user, kernel = child.memory(), tcp_memory()
        await flood(direct, tasks, readers)
        await write_timed(direct, tasks, readers)
        await asyncio.sleep(SETTLING)
        p99 = 1000 * percentile(readers.latencies, 99)
        found = Found(p99, child.memory() - user, tcp_memory() - kernel)
        await asyncio.gather(*(check_stuck(client) for client in stuck[:LOOKED_AT]))
        for client in stuck:
            client.close()
        for stream in readers.streams:
            stream.close()
    return found


async def flood(direct: Direct, tasks: Sequence[Reserved], readers: Readers) -> None:
    """Lines to all tasks at once, again and again: what nobody takes fills up all buffers on its way."""
    for number in range(FLOOD):
        for task in tasks:
            readers.written(task, time.perf_counter())
        await direct.update([numbered(task, number, SIZE) for task in tasks])
        await readers.have(number)


async def write_timed(direct: Direct, tasks: Sequence[Reserved], readers: Readers) -> None:
    """Lines at a pace that the server keeps up with, one after the other."""
    readers.begin(FLOOD)
    for number in range(FLOOD, FLOOD + LINES):
        for task in tasks:
            write = numbered(task, number, SIZE)
            readers.written(task, time.perf_counter())
            await direct.update([write])
            await asyncio.sleep(PAUSE)
    await readers.have(FLOOD + LINES - 1)
    if len(readers.latencies) != LINES * READING:
        raise RuntimeError("not every line is accounted for")


async def open_stuck(port: int, key: str) -> socket.socket:
    """A client that has seen the beginning of its stream, and reads no more."""
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes the smallest possible of it
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, follow(key))
    begin = await loop.sock_recv(client, 15)
    if b" 200 " not in begin:
        raise RuntimeError(f"no stream: {begin!r}")
    return client


async def check_stuck(client: socket.socket) -> None:
    """Raises an error if the buffers held half of what was written, or more: this client was hardly stuck."""
    loop = asyncio.get_running_loop()
    size = 0
    try:
        while True:
            async with asyncio.timeout(SETTLING):
                size += len(await loop.sock_recv(client, 65536))
    except TimeoutError:
        if size > (FLOOD + LINES) * SIZE / 2:
            raise RuntimeError(f"{size:,} bytes were held for a stuck client: write more") from None


def tcp_memory() -> int:
    """Bytes of all TCP buffers of this machine."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    raise RuntimeError("the kernel does not tell what TCP uses")
