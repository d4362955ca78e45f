"""Pause and kill -9 at every step of a task's life: each accepted task ends, once, within 15 s."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.config import Config
from dragon.store import scripts
from tests.auditing import assert_sound
from tests.faults import failpoints
from tests.faults.failpoints import Child, Nursery
from tests.faults.lanes import FINAL, Lane, Stream
from tests.figures import FULL, note, scale
from tests.system import MODULES, eventually, test_config

#: Seconds from a kill to the end of every task; in the short form other tests keep the machine busy.
WITHIN = scale(15, 45)
LANES = scale(6, 8)  # systems side by side, each in a Redis database of its own
# A command to a Redis that other tests keep from running may take longer than by default: its 503 is no finding.
SETTINGS: dict[str, Any] = {} if FULL else {"worker__lease": 1, "worker__heartbeat": 0.2, "redis__timeout": 20}
ONLY = os.environ.get("FAULTS_CASE", "")  # to repeat one: cases whose description holds these words
EVERY_KIND = ("step.def", "step.async", "step.file")


@dataclass(frozen=True)
class Case:
    """One step at which a process stops and is killed; `play` is what happens around it."""

    step: str
    play: Callable[[Lane, Case], Awaitable[float]]
    task: str = "step.def"
    count: int = 1

    def __str__(self) -> str:
        return f"{self.step}:{self.count} {self.task} {self.play.__name__}"

    @property
    def steps(self) -> str:
        return f"{self.step}:{self.count}"


# ---- what happens around a step: worker, executor, fork server -------------------------------------------------------


def two(case: Case, **parameters: Any) -> dict[str, Any]:
    return {"tasks": [{"task_name": case.task, **parameters}] * 2}


async def kill_and_see_it_end(lane: Lane, pid: int, stream: Stream) -> float:
    """kill -9; the seconds until the stream is over."""
    Child(pid, Path(), Path()).kill()
    killed = time.monotonic()
    await stream.over(2 * WITHIN)
    return time.monotonic() - killed


async def check_statuses(lane: Lane, finals: Sequence[dict[str, Any]]) -> None:
    """What is asked for later is what the stream said."""
    async with lane.session() as session:
        body = {"tasks": [status["key"] for status in finals]}
        async with session.post("/v1/status", data=orjson.dumps(body)) as response:
            assert await response.json() == finals


async def check_success(lane: Lane, finals: Sequence[dict[str, Any]]) -> None:
    await check_statuses(lane, finals)
    assert [status["status"] for status in finals] == ["success"] * len(finals), finals


#: Steps that come only while a task is at work: a worker that is late may find it ended, or its next progress there.
WHILE_AT_WORK = ("worker.first.", "worker.renew.")


async def working(lane: Lane, case: Case, **parameters: Any) -> float:
    """A worker takes two tasks; it, its executor or its fork server stops and is killed. Another worker is there."""
    gate = lane.gate()
    if case.step.startswith(WHILE_AT_WORK):
        parameters["gate"] = str(gate)
    async with lane.session() as session:
        stream = Stream(session, "/v1/create_stream", two(case, **parameters))
        await stream.head()
        victim = await lane.victim(case.steps)
        pid = await lane.stopped(victim, case.step)
        gate.touch()
        second = await lane.worker()
        seconds = await kill_and_see_it_end(lane, pid, stream)
        await check_success(lane, stream.check())
    await lane.end(victim, second)
    return seconds


async def crashing(lane: Lane, case: Case) -> float:
    """As `working`, with tasks that end their executor on the first attempt."""
    return await working(lane, case, crashes=1)


async def stopping(lane: Lane, case: Case) -> float:
    """A worker is told to stop while it has tasks that last longer than it may wait."""
    gate = lane.gate()
    async with lane.session() as session:
        stream = Stream(session, "/v1/create_stream", two(case, gate=str(gate)))
        await stream.head()
        victim = await lane.victim(case.steps)
        await eventually(lambda: any("progress" in status for status in stream.lines[1:]), 45)
        victim.signal(signal.SIGTERM)
        pid = await lane.stopped(victim, case.step)
        gate.touch()
        second = await lane.worker(2)
        seconds = await kill_and_see_it_end(lane, pid, stream)
        await check_success(lane, stream.check())
    await lane.end(second)
    return seconds


async def taking_over(lane: Lane, case: Case, wanted: Sequence[str] = ("success",)) -> float:
    """A worker dies with a task; the one that is to hand it on, or to end it, is killed as well."""
    async with lane.session() as session:
        stream = Stream(session, "/v1/create_stream", two(case))
        await stream.head()
        first = await lane.victim("worker.start.after:1")
        Child(await lane.stopped(first, "worker.start.after"), Path(), Path()).kill()
        await eventually(lane.leases_run_out, 45)
        victim = await lane.victim(case.steps)
        pid = await lane.stopped(victim, case.step)
        second = await lane.worker()
        seconds = await kill_and_see_it_end(lane, pid, stream)
        finals = stream.check()
        assert [status["status"] for status in finals if status["status"] not in wanted] == [], finals
        assert any(status["status"] == wanted[0] for status in finals), finals
        await check_statuses(lane, finals)
    await lane.end(second)
    return seconds


async def ending(lane: Lane, case: Case) -> float:
    """As `taking_over`, for a task without an attempt left: an error says so."""
    return await taking_over(lane, case, wanted=("error", "success"))


async def waking_late(lane: Lane, case: Case) -> float:
    """A worker is stopped until its tasks have ended elsewhere, wakes, and is killed when it learns of that."""
    async with lane.session() as session:
        stream = Stream(session, "/v1/create_stream", two(case))
        await stream.head()
        victim = await lane.victim(f"worker.start.after:1,{case.steps}")
        pid = await lane.stopped(victim, "worker.start.after")
        stopped = time.monotonic()
        second = await lane.worker()
        await stream.over(2 * WITHIN)
        seconds = time.monotonic() - stopped
        victim.signal(signal.SIGCONT)
        assert await lane.stopped(victim, case.step) == pid
        victim.kill()
        await check_success(lane, stream.check())
    await lane.end(second)
    return seconds


# ---- the same for the server ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(lane: Lane, case: Case) -> AsyncIterator[tuple[aiohttp.ClientSession, Callable[[], Awaitable[None]]]]:
    """A server that will stop, and a worker; the function waits for the stop, kills it and starts another one."""
    worker = await lane.worker()
    victim = await lane.victim(case.steps, "server")
    await lane.until_ready(victim, "server")
    running = [worker]

    async def replace() -> None:
        pid = await lane.stopped(victim, case.step)
        assert pid == victim.pid
        victim.kill()
        await eventually(lambda: not victim.is_alive, 45)
        running.append(await lane.start("server"))

    async with lane.session() as session:
        yield session, replace
    await lane.end(*running)


async def asked(session: aiohttp.ClientSession, method: str, path: str, body: Any = None, key: str = "") -> Any:
    """The JSON of an answer, or the response where that is a redirect; None when the server was killed."""
    headers = {"Idempotency-Key": key} if key else {}
    data = None if body is None else orjson.dumps(body)
    try:
        async with session.request(method, path, data=data, headers=headers, allow_redirects=False) as response:
            assert response.status in (200, 302), await response.text()
            return response if response.status == 302 else await response.json()
    except aiohttp.ClientError:
        return None


async def creating(lane: Lane, case: Case) -> float:
    """A client that gets no answer to its create repeats it with its Idempotency-Key: two tasks, not four."""
    known = lane.tasks()
    async with served(lane, case) as (session, replace):
        call = ("POST", "/v1/create", two(case), str(case))
        asking = asyncio.ensure_future(asked(session, *call))
        await replace()
        began = time.monotonic()
        assert await asking is None
        keys = [status["key"] for status in await asked(session, *call)]
        finals = await asked(session, "POST", "/v1/status", {"tasks": keys, "block": True})
        seconds = time.monotonic() - began
        assert lane.tasks() - known == set(keys)
        assert [(status["status"], attempt_of(status)) for status in finals] == [("success", 1)] * 2
    return seconds


def attempt_of(status: dict[str, Any]) -> Any:
    return status["result"]["attempt"] if isinstance(status["result"], dict) else status["result"]


async def streaming(lane: Lane, case: Case) -> float:
    """A client whose stream is cut comes back with its keys or, when it has none yet, with its Idempotency-Key."""
    gate = lane.gate()  # until the server has stopped there is always a next line, which it may be late to read
    if case.step == "server.stream.over":
        gate.touch()
    known, body = lane.tasks(), two(case, gate=str(gate))
    async with served(lane, case) as (session, replace):
        stream = Stream(session, "/v1/create_stream", body, str(case))
        await replace()
        gate.touch()
        began = time.monotonic()
        await stream.over(WITHIN)
        assert not stream.is_whole
        if stream.keys:
            again = Stream(session, "/v1/status_stream", {"tasks": stream.keys})
        else:
            again = Stream(session, "/v1/create_stream", body, str(case))
        await again.over(2 * WITHIN)
        seconds = time.monotonic() - began
        finals = again.check()
        assert lane.tasks() - known == set(again.keys)
        for status in stream.lines[1:]:
            if status["status"] in FINAL:
                assert status in finals, "a final status has changed"
        assert [(status["status"], attempt_of(status)) for status in finals] == [("success", 1)] * 2
    return seconds


async def following(lane: Lane, case: Case) -> float:
    """A client follows tasks that exist, or waits for them, and asks again."""
    async with served(lane, case) as (session, replace):
        keys = [status["key"] for status in await asked(session, "POST", "/v1/create", two(case))]
        waiting = asyncio.ensure_future(asked(session, "POST", "/v1/status", {"tasks": keys, "block": True}))
        stream = Stream(session, "/v1/status_stream", {"tasks": keys})
        await replace()
        began = time.monotonic()
        assert await waiting is None
        await stream.over(WITHIN)
        again = Stream(session, "/v1/status_stream", {"tasks": keys})
        finals = await asked(session, "POST", "/v1/status", {"tasks": keys, "block": True})
        await again.over(2 * WITHIN)
        seconds = time.monotonic() - began
        assert again.check() == finals
        assert [status["status"] for status in finals] == ["success"] * 2
    return seconds


async def picturing(lane: Lane, case: Case) -> float:
    """An <img> whose server is killed asks again and gets the same task's file; a POST leaves a task that ends."""
    known = lane.tasks()
    async with served(lane, case) as (session, replace):
        path = f"/v1/create_file/first?task_name=step.file&seconds=0.5&size={len(known) + 10}"
        asking = [
            asyncio.ensure_future(asked(session, "GET", path)),
            asyncio.ensure_future(asked(session, "POST", "/v1/create_file/first", {"task": two(case)["tasks"][0]})),
        ]
        await replace()
        began = time.monotonic()
        await asyncio.gather(*asking)
        answer = await asked(session, "GET", path)
        while "/v1/file" in answer.headers["Location"]:
            answer = await asked(session, "GET", answer.headers["Location"])
        async with session.get(answer.headers["Location"]) as response:
            assert await response.text() == "1" * (len(known) + 10)
        keys = sorted(lane.tasks() - known)
        assert len(keys) in (1, 2)  # the POST has no key to come back with: its task is there, or was never accepted
        finals = await asked(session, "POST", "/v1/status", {"tasks": keys, "block": True})
        seconds = time.monotonic() - began
        assert [(status["status"], attempt_of(status)) for status in finals] == [("success", 1)] * len(keys)
    return seconds


async def cancelling(lane: Lane, case: Case) -> float:
    """A cancellation is repeated when its answer did not come: the task is cancelled, and its executor is free."""
    async with served(lane, case) as (session, replace):
        body = {"tasks": {"task_name": case.task, "seconds": 100}}  # less than its timeout
        key = (await asked(session, "POST", "/v1/create", body))[0]["key"]

        async def is_running() -> bool:
            return "progress" in (await asked(session, "POST", "/v1/status", {"tasks": key}))[0]

        await eventually(is_running, 45)
        asking = asyncio.ensure_future(asked(session, "DELETE", f"/v1/tasks/{key}"))
        await replace()
        began = time.monotonic()
        assert await asking is None
        final = await asked(session, "DELETE", f"/v1/tasks/{key}")
        assert (final["status"], final["result"]) == ("error", "cancelled")
        after = await asked(session, "POST", "/v1/create", {"tasks": {"task_name": case.task}, "block": True})
        seconds = time.monotonic() - began
        assert after[0]["status"] == "success"
        assert await asked(session, "POST", "/v1/status", {"tasks": key}) == [final]
    return seconds


# ---- the table ------------------------------------------------------------------------------------------------------


def each(steps: Sequence[str], play: Any, kinds: Sequence[str]) -> list[Case]:
    """All steps with all kinds of tasks; in the short form each step once, the kinds in turn."""
    if FULL:
        return [Case(step, play, kind) for step in steps for kind in kinds]
    return [Case(step, play, kind) for step, kind in zip(steps, itertools.cycle(kinds), strict=False)]


def _named(steps: dict[str, failpoints.Step], prefix: str) -> list[str]:
    return [name for name in steps if name.startswith(prefix)]


TABLE: dict[str, list[Case]] = {
    "worker": [
        *each(list(failpoints.WORKER_STEPS), working, EVERY_KIND),
        *each(list(failpoints.RENEW_STEPS), working, EVERY_KIND),
        *each(_named(failpoints.FILE_STEPS, "worker"), working, ("step.file",)),
        Case("worker.files.half", working, "step.file", 2),
        *each(_named(failpoints.CRASH_STEPS, "worker"), crashing, EVERY_KIND),
        *each(list(failpoints.STOP_STEPS), stopping, EVERY_KIND),
        *each(list(failpoints.LOST_STEPS), taking_over, EVERY_KIND),
        *each(list(failpoints.ORPHAN_STEPS), ending, ("step.once",)),
        # Not with files: those that a loser stores after it woke, and is killed before it drops them, stay until the
        # winner's go; the audit names them.
        *each(list(failpoints.LATE_STEPS), waking_late, ("step.def", "step.async")),
    ],
    "executor": [
        *each(list(failpoints.EXECUTOR_STEPS), working, EVERY_KIND),
        *each(_named(failpoints.FILE_STEPS, "executor"), working, ("step.file",)),
        Case("executor.scratch", working, "step.file", 2),
        *each(list(failpoints.SYNC_EXECUTOR_STEPS), working, ("step.def", "step.file")),
        *each(list(failpoints.ASYNC_EXECUTOR_STEPS), working, ("step.async",)),
    ],
    "fork server": [
        *each(list(failpoints.FORK_SERVER_STEPS), working, EVERY_KIND),
        *each(_named(failpoints.CRASH_STEPS, "forkserver"), crashing, EVERY_KIND),
        Case("forkserver.forked", crashing, "step.def", 3),
        Case("forkserver.child", crashing, "step.async", 3),
    ],
    "server": [
        *each(["server.create.before", "server.create.sent", "server.create.after"], creating, EVERY_KIND),
        *each(["server.create.before", "server.create.sent", "server.create.after"], streaming, EVERY_KIND),
        *each(_named(failpoints.SERVER_STEPS, "server.stream"), streaming, EVERY_KIND),
        Case("server.stream.written", streaming, "step.def", 2),
        Case("server.stream.written", streaming, "step.async", 3),
        Case("server.stream.dispatch", streaming, "step.async", 2),
        *each(["server.follow.sent", "server.follow.after", "server.wait"], following, EVERY_KIND),
        *each(["server.file.wait", "server.reused.after", "server.create.sent"], picturing, ("step.file",)),
        *each(["server.cancel.sent", "server.cancel.after"], cancelling, ("step.def", "step.async")),
        Case("server.cancel.sent", cancelling, "step.async", 2),
        Case("server.cancel.after", cancelling, "step.def", 2),
    ],
}


async def run_case(lane: Lane, case: Case) -> float:
    seconds = await case.play(lane, case)
    assert seconds < WITHIN, f"it took {seconds:.1f} s"
    if FULL:
        await check_soundness(lane)
    return seconds


async def check_soundness(lane: Lane) -> None:
    """The audit, with a living worker: it sees to the leases and folders of those that were killed."""
    worker = await lane.worker()
    await assert_sound(lane.config, timeout=WITHIN)
    await lane.end(worker)


@pytest.mark.timeout(1500 if FULL else 400)
@pytest.mark.parametrize("victim", list(TABLE))
async def test_whatever_dies_at_whatever_step_each_task_ends_once_within_15_seconds(
    victim: str, nursery: Nursery, redis_url: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for path in Path(scripts.__file__).parent.glob("[a-z]*.lua"):
            client.script_load(scripts.script(path.stem).source)  # so that what is sent runs at the first time
    cases = [case for case in TABLE[victim] if ONLY in str(case)]
    waiting = iter(cases)
    seconds: dict[str, float] = {}
    failed: list[str] = []

    async def work(number: int) -> None:
        lane = Lane(lane_config(tmp_path / str(number), f"{redis_url}?db={number}"), nursery)
        server = None if victim == "server" else await lane.start("server")
        for case in waiting:
            try:
                seconds[str(case)] = await run_case(lane, case)
            except Exception as error:
                failed.append(f"{case}: {''.join(traceback.format_exception(error)[-3:])}")
                for child in lane.children:
                    if child is not server:
                        child.kill()
        if server is not None:
            await lane.end(server)
        # In the short form only now: an audit takes longer than most cases. All that they did is still there.
        try:
            await check_soundness(lane)
        except Exception as error:
            failed.append(f"lane {number}: {error}")

    await asyncio.gather(*(work(number) for number in range(1, LANES + 1)))
    assert not failed, "\n\n".join(failed)
    if not cases:
        return
    slowest = max(seconds, key=lambda case: seconds[case])
    done = f"{len(cases)} kills of the {victim}, at {len({one.steps for one in cases})} steps"
    note("1", done, f"all ended once, the slowest after {seconds[slowest]:.1f} s ({slowest})")


def lane_config(data: Path, redis_url: str) -> Config:
    modules = (*MODULES, *failpoints.MODULES)
    return test_config(
        data, redis_url, tasks__modules=modules, worker__stop_grace=0.2, files__sweep_interval=0.5, **SETTINGS
    )
