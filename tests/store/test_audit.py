"""`dragon audit`: each invariant, broken by hand, is named with what to do; a sound system at work has no findings."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dragon.config import Config
from dragon.connections import Redis
from dragon.files.audit import filenames
from dragon.keys import new_key
from dragon.status import CANCELLED, ERROR, SUCCESS, Status, parse_line, timestamp
from dragon.store import logs, names, tasks, workers
from dragon.store.audit import Report, _Displaced, _search, audit, examine
from dragon.store.logs import LogWrite
from dragon.store.scripts import script
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from dragon.store.workers import WorkerFacts
from tests.auditing import assert_sound, describe
from tests.system import SECRET, System, test_config

OwnSystem = Callable[..., System]
LIFE = 1000
NOBODY = "A" * 26
EVENTS = f'{{"queued":"{timestamp()}"}}'
PAUSE = 0.02  # seconds between two looks at a Redis in which nothing moves


@dataclass
class House:
    """A Redis and a disk with something of everything, all of it sound."""

    config: Config
    redis: Redis
    keys: dict[str, str]  # by what they stand for in the table below

    async def audit(self, pause: float = PAUSE) -> Report:
        return await audit(self.config, self.redis, pause=pause)

    def fill(self, text: str) -> str:
        """The text with the keys and folders that it names in braces."""
        data = self.config.data_dir
        shards = {f"{name}_folder": f"{data}/files/{key[:2]}/{key}" for name, key in self.keys.items()}
        return text.format(**self.keys, **shards, nobody=NOBODY, data=data, events=EVENTS)


def new_task(queue: str = "default", reuse: str = "") -> NewTask:
    status = Status("queued", new_key(), timestamp())
    return NewTask(status.key, status.line(), False, "hello", b"{}", b"", queue, 3, 60, reuse)


async def end(redis: Redis, reserved: Reserved, kind: Any, result: bytes = b"1", size: int = -1) -> None:
    line = parse_line(reserved.line).ended(kind, result, timestamp()).line()
    write = Write(reserved.key, reserved.attempt, kind, line, size)
    assert await tasks.update(redis, "w", [write], life=LIFE) == [True]


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    redis = Redis(redis_url, 5)
    config = test_config(tmp_path, redis_url)
    await workers.register(redis, WorkerFacts("w", ("default",), ("hello",), 1, "host", "3", "3.11"), 600)
    reuse = names.digest("picture")
    roles = ("filed", "failed", "reserved", "waiting", "second")
    made = {role: new_task(reuse=reuse if role == "filed" else "") for role in roles}
    wrong = new_task()
    line = parse_line(wrong.line).ended(ERROR, b'"wrong"', timestamp()).line()
    made["wrong"] = wrong._replace(final=True, line=line, queue="", max_attempts=0, timeout=0)
    digests = {"idempotency": names.digest("i"), "request": names.digest("r")}
    await tasks.create(redis, "a", list(made.values()), Usage(), life=LIFE, **digests)
    lane = new_task()
    await tasks.create(redis, "b", [lane], Usage(), life=LIFE)
    keys = {role: task.key for role, task in made.items()} | {"lane": lane.key, "reuse": reuse}
    keys["idempotency"] = digests["idempotency"]
    await take(redis, "filed", "failed", "reserved", keys=keys, config=config)
    yield House(config, redis, keys)
    await redis.close()


async def take(redis: Redis, *roles: str, keys: dict[str, str], config: Config) -> None:
    """Reserves these and the lane's task (turns decide), ends what has ended, and gives the lane's back."""
    reserved: dict[str, Reserved] = {}
    by_key = {key: role for role, key in keys.items()}
    while not set(roles) <= reserved.keys():
        one = await tasks.reserve(redis, "w", ("default",), sync_places=1, async_places=0, ahead=0, known=[])
        reserved |= {by_key[task.key]: task for task in one.tasks}
    back = [(task.key, task.attempt) for role, task in reserved.items() if role not in roles]
    await tasks.give_back(redis, "w", back)
    key = keys["filed"]
    url = b'{"output":"http://old.example/files/%s/a%%20picture.txt","of":"http://example.com/"}' % key.encode()
    await end(redis, reserved["filed"], SUCCESS, url, size=4)
    await end(redis, reserved["failed"], ERROR)
    folder = config.data_dir / "files" / key[:2] / key / "1"
    folder.mkdir(parents=True)
    (folder / "a picture.txt").write_text("text")


async def test_a_house_with_something_of_everything_is_sound(house: House) -> None:
    write = LogWrite(house.keys["reserved"], 1, 60, [(1, b"1 123 text")])
    assert await logs.append(house.redis, "w", [write], life=LIFE, most=10) == [True]
    report = await house.audit()
    assert report.findings == (), describe(report)
    assert (report.waiting, report.reserved, report.ended) == (3, 1, 3)
    assert (report.workers, report.accounts, report.files, report.unsettled) == (1, 2, 1, ())
    lists = {name.decode() for name in await house.redis.command("KEYS", "rq:queue:*")}
    assert lists == {"rq:queue:default", "rq:queue:default@b"}, "the house has a lane"


Command = str | tuple[str, ...]

#: What is done to the house, and the findings that name it, each `kind | name | sentence`.
BROKEN: dict[str, tuple[list[Command], list[str]]] = {
    "a waiting task is in no list": (
        ["LREM rq:queue:default 0 {waiting}"],
        [
            "lost | {waiting} | it waits, but stands in no list of its queue 'default', so no worker will find it: it "
            "is lost; put it back (RPUSH rq:queue:default {waiting}), or cancel it"
        ],
    ),
    "a task of a lane is in no list": (
        ["DEL rq:queue:default@b"],
        [
            "lost | {lane} | it waits, but stands in no list of its queue 'default', so no worker will find it: it "
            "is lost; put it back (RPUSH rq:queue:default {lane}), or cancel it"
        ],
    ),
    "RQ's own worker popped it and died": (
        ["LREM rq:queue:default 0 {waiting}", "RPUSH rq:queue:default:intermediate {waiting}"],
        [
            "lost | {waiting} | it waits; a worker of RQ's own has popped it and not begun it, and RQ only fails it, "
            "so it is lost: put it back (LREM rq:queue:default:intermediate 0 {waiting} and "
            "RPUSH rq:queue:default {waiting})"
        ],
    ),
    "RQ's own worker began it and died": (
        ["LREM rq:queue:default 0 {waiting}", "ZADD rq:wip:default 1 {waiting}:6dd4c1a7"],
        [
            "leftover | {waiting} | rq:wip:default lists attempt 6dd4c1a7 of {waiting} as running, which is not so: "
            "take it out (ZREM rq:wip:default {waiting}:6dd4c1a7)",
            "lost | {waiting} | it waits, but stands in no list of its queue 'default', so no worker will find it: it "
            "is lost; put it back (RPUSH rq:queue:default {waiting}), or cancel it",
        ],
    ),
    "a waiting task is in its list twice": (
        ["RPUSH rq:queue:default {waiting}"],
        [
            "place | {waiting} | it waits 2 times, in rq:queue:default; a worker that meets it again drops it, or take "
            "one out (LREM rq:queue:default 1 {waiting})"
        ],
    ),
    "a task is in the queue's own list and in its lane": (
        ["RPUSH rq:queue:default {lane}"],
        [
            "place | {lane} | it waits 2 times, in rq:queue:default and rq:queue:default@b; a worker that meets it "
            "again drops it, or take one out (LREM rq:queue:default 1 {lane})"
        ],
    ),
    "a waiting task is in another queue too": (
        ["RPUSH rq:queue:low {waiting}"],
        [
            "place | {waiting} | it waits, and stands in rq:queue:low, which is no list of its queue 'default': take "
            "it out (LREM rq:queue:low 0 {waiting})"
        ],
    ),
    "a waiting task is in another account's lane": (
        ["LREM rq:queue:default 0 {waiting}", "RPUSH rq:queue:default@b {waiting}"],
        [
            "lost | {waiting} | it waits, but stands in no list of its queue 'default', so no worker will find it: it "
            "is lost; put it back (RPUSH rq:queue:default {waiting}), or cancel it",
            "place | {waiting} | it waits, and stands in rq:queue:default@b, which is no list of its queue 'default': "
            "take it out (LREM rq:queue:default@b 0 {waiting})",
        ],
    ),
    "a reserved task is in a list": (
        ["RPUSH rq:queue:default {reserved}"],
        [
            "place | {reserved} | it is being worked on, but stands in rq:queue:default as if it waited; a worker that "
            "meets it there drops it, or take it out (LREM rq:queue:default 0 {reserved})"
        ],
    ),
    "an ended task is in a list": (
        ["RPUSH rq:queue:nobodys {failed}"],
        [
            "place | {failed} | it has ended, but stands in rq:queue:nobodys as if it waited; a worker that meets it "
            "there drops it, or take it out (LREM rq:queue:nobodys 0 {failed})"
        ],
    ),
    "a list has a key of no task": (
        ["RPUSH rq:queue:low {nobody}"],
        [
            "leftover | {nobody} | rq:queue:low lists {nobody}, which does not exist: a worker that meets it drops it, "
            "or take it out (LREM rq:queue:low 0 {nobody})"
        ],
    ),
    "the worker has no lease": (
        ["ZREM dragon:workers w"],
        [
            "leftover | dragon:worker:w | dragon:worker:w is of a worker that has no lease, so nobody will clean up "
            "after it: list it (ZADD dragon:workers 0 w), and another worker does",
            "stuck | {reserved} | the worker w has it, which has no lease, so nobody hands it on: it is stuck; list "
            "that worker (ZADD dragon:workers 0 w), and another hands it on",
        ],
    ),
    "the worker's lease is over": (
        ["ZADD dragon:workers 1 w"],
        [
            "leftover | dragon:workers | the lease of the worker w is over, and nobody has cleaned up after it: start "
            "a worker, it does that within seconds",
            "stuck | {reserved} | the worker w has it, whose lease is over, and no other worker has taken over: start "
            "a worker, it does that within seconds",
        ],
    ),
    "the worker's set has lost a task": (
        ["SREM dragon:worker:w:tasks {reserved}"],
        [
            "stuck | {reserved} | the worker w has it, but dragon:worker:w:tasks does not list it, so it would be lost "
            "with that worker: list it (SADD dragon:worker:w:tasks {reserved})"
        ],
    ),
    "the worker's set has a task of nobody's": (
        ["SADD dragon:worker:w:tasks {nobody}"],
        [
            "leftover | {nobody} | dragon:worker:w:tasks lists {nobody}, which does not exist: take it out "
            "(SREM dragon:worker:w:tasks {nobody})"
        ],
    ),
    "the worker's set has a task that waits": (
        ["SADD dragon:worker:w:tasks {waiting}"],
        [
            "leftover | {waiting} | dragon:worker:w:tasks lists {waiting}, which that worker does not have: take it "
            "out (SREM dragon:worker:w:tasks {waiting})"
        ],
    ),
    "another worker's set has the task too": (
        ["ZADD dragon:workers 9999999999 v", "SADD dragon:worker:v:tasks {reserved}"],
        [
            "leftover | {reserved} | dragon:worker:v:tasks lists {reserved}, which that worker does not have: take it "
            "out (SREM dragon:worker:v:tasks {reserved})"
        ],
    ),
    "a task is damaged": (
        ["HSET rq:job:{failed} facts nonsense"],
        [
            "damaged | {failed} | its hash rq:job:{failed} is damaged (state b'1 2 e w ', facts b'nonsense'), so "
            "nobody can work on it: delete it (DEL rq:job:{failed}) and create the task again"
        ],
    ),
    "a task has an unknown phase": (
        [("HSET", "rq:job:{failed}", "state", "1 2 x w ")],
        [
            "damaged | {failed} | its hash rq:job:{failed} is damaged (state b'1 2 x w ', facts b'3 a '), so nobody "
            "can work on it: delete it (DEL rq:job:{failed}) and create the task again"
        ],
    ),
    "what is of another type": (
        [
            *("SET rq:job:{nobody} x", "SET rq:wip:default2 x", "SET rq:failed:default2 x"),
            *(
                "SET rq:queue:default2 x",
                "SET dragon:account:c x",
                "HSET dragon:account:b bytes many",
                "SET dragon:worker:w2:tasks x",
            ),
            "ZADD dragon:workers 9999999999 w2",
        ],
        [
            "damaged | {nobody} | its hash rq:job:{nobody} is damaged (state b'of another type', facts None), so "
            "nobody can work on it: delete it (DEL rq:job:{nobody}) and create the task again",
            *(
                f"damaged | {name} | {name} is of another type than dragon keeps there, so nobody can use it: see what "
                f"it is (TYPE {name}), and delete it (DEL {name})"
                for name in ("rq:wip:default2", "rq:failed:default2", "dragon:account:c", "dragon:worker:w2:tasks")
            ),
            "damaged | dragon:account:b | it counts b'many' bytes of output files and b'1' tasks queued, which are no "
            "numbers: HSET dragon:account:b queued 1 bytes 0",
        ],
    ),
    "a waiting task has an owner": (
        [("HSET", "rq:job:{waiting}", "state", "0 1 w w ")],
        [
            "damaged | {waiting} | it waits and yet belongs to the worker w, so no worker takes it: cancel it and "
            "create it again"
        ],
    ),
    "a waiting task has a final status": (
        [("HSET", "rq:job:{waiting}", "line", '{{"status":"success","key":"{waiting}","events":{events},"result":1}}')],
        [
            "status | {waiting} | it waits, but its stored status is final (success), so clients think that it has "
            "ended: cancel it and create it again"
        ],
    ),
    "a task has another's status": (
        [("HSET", "rq:job:{reserved}", "line", '{{"status":"queued","key":"{waiting}","events":{events}}}')],
        [
            "status | {reserved} | it is being worked on, but its stored status is not its own: cancel it and create "
            "it again"
        ],
    ),
    "a waiting task will be forgotten": (
        ["EXPIRE rq:job:{waiting} 1000", "ZADD dragon:expiries 9999999999 {waiting}"],
        [
            "life | {waiting} | it waits, but Redis will forget it, for it has a time to live: take that away "
            "(PERSIST rq:job:{waiting})",
            "life | {waiting} | it waits, but stands in dragon:expiries as if it had ended, so the sweep will remove "
            "it: take it out (ZREM dragon:expiries {waiting})",
        ],
    ),
    "RQ takes a task for ended that is not": (
        ["ZADD rq:finished:default 9999999999 {waiting}", "ZADD rq:failed:default 9999999999 {reserved}"],
        [
            "registry | {reserved} | it is being worked on, but RQ's registry rq:failed:default lists it as ended: "
            "take it out (ZREM rq:failed:default {reserved})",
            "registry | {waiting} | it waits, but RQ's registry rq:finished:default lists it as ended: take it out "
            "(ZREM rq:finished:default {waiting})",
        ],
    ),
    "RQ does not see that a task runs": (
        ["ZREM rq:wip:default {reserved}:1"],
        [
            "registry | {reserved} | a worker has it, but RQ's registry rq:wip:default does not list {reserved}:1, so "
            "`rq info` does not count it: nothing to do, its end mends that"
        ],
    ),
    "an ended task has no final status": (
        [("HSET", "rq:job:{failed}", "line", '{{"status":"executing","key":"{failed}","events":{events}}}')],
        [
            "status | {failed} | it has ended, but its stored status is executing, so clients wait for ever: delete it "
            "(DEL rq:job:{failed}) and create it again"
        ],
    ),
    "an ended task has another's status": (
        [("HSET", "rq:job:{failed}", "line", '{{"status":"error","key":"{filed}","events":{events},"result":1}}')],
        [
            "status | {failed} | it has ended, but its stored status is not its own, so clients wait for ever: delete "
            "it (DEL rq:job:{failed}) and create it again"
        ],
    ),
    "RQ has another status": (
        ["HSET rq:job:{failed} status finished"],
        [
            "registry | {failed} | it ended in error, but to RQ its status is 'finished' instead of 'failed': set it "
            "right (HSET rq:job:{failed} status failed)"
        ],
    ),
    "RQ's other registry lists an ended task": (
        ["ZADD rq:finished:default 9999999999 {failed}", "ZADD rq:finished: 9999999999 {wrong}"],
        [
            "registry | {failed} | it ended in error, but RQ's registry rq:finished:default lists it: take it out "
            "(ZREM rq:finished:default {failed})",
            "registry | {wrong} | it ended in error, but RQ's registry rq:finished: lists it: take it out "
            "(ZREM rq:finished: {wrong})",
        ],
    ),
    "RQ's registry does not list an ended task": (
        ["ZREM rq:finished:default {filed}"],
        [
            "registry | {filed} | it ended in success, but RQ's registry rq:finished:default does not list it, so RQ's "
            "tools do not show it: nothing to do, it is forgotten in time all the same"
        ],
    ),
    "an attempt that is over counts as running": (
        ["ZADD rq:wip:default +inf {reserved}:7 +inf {failed}:1", "ZADD rq:wip:low +inf {nobody}:1"],
        [
            "leftover | {failed} | rq:wip:default lists attempt 1 of {failed} as running, which is not so: take it out "
            "(ZREM rq:wip:default {failed}:1)",
            "leftover | {nobody} | rq:wip:low lists attempt 1 of {nobody} as running, which is not so: take it out "
            "(ZREM rq:wip:low {nobody}:1)",
            "leftover | {reserved} | rq:wip:default lists attempt 7 of {reserved} as running, which is not so: take it "
            "out (ZREM rq:wip:default {reserved}:7)",
        ],
    ),
    "an ended task lives for ever": (
        ["PERSIST rq:job:{failed}"],
        [
            "life | {failed} | it has ended, but will never be forgotten: give it a time to live "
            "(EXPIRE rq:job:{failed} 604800)"
        ],
    ),
    "the sweep does not know of output files": (
        ["ZREM dragon:expiries {filed}"],
        [
            "life | {filed} | it has output files, but dragon:expiries does not list it, so no sweep will remove them: "
            "have them removed now (ZADD dragon:expiries 0 {filed})"
        ],
    ),
    "registries list what does not exist": (
        ["ZADD rq:failed:default 9999999999 {nobody}", "ZADD dragon:expiries 9999999999 {nobody}"],
        [
            "leftover | {nobody} | dragon:expiries lists {nobody}, which does not exist: the sweep takes it out in "
            "time, with its files, or take it out (ZADD dragon:expiries 0 {nobody})",
            "leftover | {nobody} | rq:failed:default lists {nobody}, which does not exist: the sweep takes it out in "
            "time, or take it out (ZREM rq:failed:default {nobody})",
        ],
    ),
    "counters have leaked": (
        ["HINCRBY dragon:account:a queued 3", "HINCRBY dragon:account:a bytes -5"],
        [
            "counter | dragon:account:a | it counts -1 bytes of output files, but its tasks' are 4: "
            "HINCRBY dragon:account:a bytes 5",
            "counter | dragon:account:a | it counts 5 tasks queued, but 2 wait (RQ's `rq empty` and the like remove "
            "tasks without telling dragon): HINCRBY dragon:account:a queued -3",
        ],
    ),
    "an account without tasks counts some": (
        ["HSET dragon:account:c queued -2"],
        [
            "counter | dragon:account:c | it counts -2 tasks queued, but 0 wait (RQ's `rq empty` and the like remove "
            "tasks without telling dragon): HINCRBY dragon:account:c queued 2"
        ],
    ),
    "a feed that nobody listens to": (
        [("HSET", "rq:job:{waiting}", "state", "0 1 w  gone")],
        [
            "follower | dragon:feed:gone | tasks that have not ended are followed over dragon:feed:gone, to which no "
            "server listens: nothing to do, the next status of each of them ends that"
        ],
    ),
    "an ended task has followers": (
        [("HSET", "rq:job:{failed}", "state", "1 2 e w gone")],
        [
            "follower | {failed} | it has ended, but its state names followers (gone), who have had its end: nothing "
            "to do, they go with it"
        ],
    ),
    "the own list is empty while lanes are not": (
        ["RENAME rq:queue:default rq:queue:default@a", "DEL dragon:lane:default"],
        [
            "lane | rq:queue:default | rq:queue:default is empty while tasks wait in lanes beside it, so no worker is "
            "woken for them: start a worker of this queue, it mends that within seconds"
        ],
    ),
    "an account has no turn": (
        ["LREM dragon:turns:default 0 b"],
        [
            "lane | dragon:turns:default | tasks of b wait in the queue 'default', and it has 0 turns in "
            "dragon:turns:default, not one: RPUSH dragon:turns:default b"
        ],
    ),
    "an account has two turns": (
        ["RPUSH dragon:turns:default a"],
        [
            "lane | dragon:turns:default | tasks of a wait in the queue 'default', and it has 2 turns in "
            "dragon:turns:default, not one: LREM dragon:turns:default 1 a"
        ],
    ),
    "a request is answered with what does not exist": (
        ["SET dragon:reuse:{reuse} {nobody} EX 600"],
        [
            "reuse | dragon:reuse:{reuse} | dragon:reuse:{reuse} names {nobody} for a request to be answered with, "
            "which does not exist: the next such request replaces it, or DEL dragon:reuse:{reuse}"
        ],
    ),
    "a request is answered with another's task": (
        ["SET dragon:reuse:{reuse} {waiting}"],
        [
            "reuse | dragon:reuse:{reuse} | dragon:reuse:{reuse} names {waiting} for a request to be answered with, "
            "which is of another request: DEL dragon:reuse:{reuse}"
        ],
    ),
    "a request is answered with a failure": (
        [("HSET", "rq:job:{failed}", "facts", "3 a {reuse}"), "SET dragon:reuse:{reuse} {failed}"],
        [
            "reuse | dragon:reuse:{reuse} | dragon:reuse:{reuse} names {failed} for a request to be answered with, "
            "which ended in an error: DEL dragon:reuse:{reuse}"
        ],
    ),
    "a log has no end, and another no task's name": (
        ["XADD dragon:log:{filed} 1-1 l x", "XADD dragon:log:{nobody} 1-1 l x", "XADD dragon:log:x 1-1 l x"],
        [
            "leftover | dragon:log:x | dragon:log:x has the name of a log, but of no task: see what it is (TYPE "
            "dragon:log:x), and delete it (DEL dragon:log:x)",
            "life | dragon:log:{filed} | dragon:log:{filed} has no end, so that it outlives its task: EXPIRE "
            "dragon:log:{filed} 604800",
            "life | dragon:log:{nobody} | dragon:log:{nobody} has no end, so that it outlives its task: EXPIRE "
            "dragon:log:{nobody} 604800",
        ],
    ),
    "a request is answered for ever": (
        ["PERSIST dragon:reuse:{reuse}", "PERSIST dragon:idempotency:{idempotency}"],
        [
            "idempotency | dragon:idempotency:{idempotency} | dragon:idempotency:{idempotency} answers a repeated "
            "request for ever instead of for a day: EXPIRE dragon:idempotency:{idempotency} 86400",
            "reuse | dragon:reuse:{reuse} | dragon:reuse:{reuse} names {filed}, which has ended, and has itself no "
            "end: DEL dragon:reuse:{reuse}",
        ],
    ),
    "measurements are kept for ever": (
        [
            *("SET dragon:measures:flushed:0 1", "HSET dragon:measures:minute:1 :success 1"),
            *("HSET dragon:measures:totals :success 1", "SADD dragon:measures:names hello"),
        ],
        [
            f"measures | {name} | {name} is kept for ever instead of for a day: EXPIRE {name} 86400"
            for name in ("dragon:measures:flushed:0", "dragon:measures:minute:1")
        ],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_invariant_is_named_with_what_to_do(house: House, name: str) -> None:
    commands, expected = BROKEN[name]
    for command in commands:
        words = command.split(" ") if isinstance(command, str) else command
        await house.redis.command(*(house.fill(word) for word in words))
    assert await found(house) == sorted(house.fill(line) for line in expected)
    for _ in range(3):  # what is deleted may leave something that is found then
        for line in await found(house):
            await do_what_it_says(house, line)
    assert [line for line in await found(house) if "nothing to do" not in line and "in time" not in line] == []


async def do_what_it_says(house: House, line: str) -> None:
    redis, key = house.redis, line.split(" | ")[1]
    commands = re.findall(r"[A-Z]{3,} (?:rq|dragon):[^()]*?(?= and [A-Z]|\)|$)", line)
    for command in commands:
        await redis.command(*command.split(" "))
    if "worker" in line.rpartition(": ")[2]:
        await workers.register(redis, WorkerFacts("new", ("default",), ("hello",), 1, "host", "3", "3.11"), 600)
        await workers.renew(redis, "new", 600, "idle")
        await tasks.take_over_lost(redis, "new")
    elif not commands and "cancel it" in line:
        now = await tasks.cancel(redis, key, "a")
        assert isinstance(now, tasks.Line)
        ended = parse_line(now.line).ended(ERROR, CANCELLED, timestamp()).line()
        assert await tasks.cancel(redis, key, "a", now.seq, ended, life=LIFE) == "ended"


async def found(house: House) -> list[str]:
    return sorted(f"{one.kind} | {one.name} | {one.sentence}" for one in (await house.audit()).findings)


# What lies on the disk


async def test_output_folders_are_held_against_redis(house: House) -> None:
    files = house.config.data_dir / "files"
    for path in (files / "AA" / NOBODY / "1", files / "lo" / "lost+found"):
        path.mkdir(parents=True)
    for name, attempt in (("filed", "2"), ("filed", "1.partial"), ("failed", "1"), ("reserved", "1"), ("waiting", "1")):
        Path(house.fill(f"{{{name}_folder}}"), attempt).mkdir(parents=True)
    (files / "a stray file").touch()
    expected = [
        "file | {data}/files/AA/{nobody} | {data}/files/AA/{nobody} is of no task that Redis knows, so no sweep will "
        "remove it: rm -r {data}/files/AA/{nobody}",
        "file | {data}/files/lo/lost+found | {data}/files/lo/lost+found is of no task that Redis knows, so no sweep "
        "will remove it: rm -r {data}/files/lo/lost+found",
        "file | {filed_folder}/2 | {filed_folder}/2 is of a task that has ended, and attempt 1 has won: "
        "rm -r {filed_folder}/2",
        "file | {filed_folder}/1.partial | {filed_folder}/1.partial is of a task that has ended, and attempt 1 has "
        "won: rm -r {filed_folder}/1.partial",
        "file | {failed_folder}/1 | {failed_folder}/1 is of a task that has ended, and it ended without output files: "
        "rm -r {failed_folder}/1",
        # `find` takes the highest attempt, so clients would get the loser's files.
        "file | {filed} | its result names the output file 'a picture.txt', which is not there, so its clients get a "
        "404: restore it from a backup, or forget the task (ZADD dragon:expiries 0 {filed})",
    ]
    assert await found(house) == sorted(house.fill(line) for line in expected)
    assert (await house.audit()).files == 6


async def test_a_missing_output_file_is_named(house: House) -> None:
    shutil.rmtree(house.config.data_dir / "files")
    assert await found(house) == [
        house.fill(
            "file | {filed} | its result names the output file 'a picture.txt', which is not there, so its clients get "
            "a 404: restore it from a backup, or forget the task (ZADD dragon:expiries 0 {filed})"
        )
    ]


def test_output_files_are_known_by_their_urls_wherever_the_server_was_then() -> None:
    line = b'{"status":"success","key":"K","events":{},"result":{"a":"https://x/y/files/K/b%20c.txt","n":1,"u":"http://x/files/L/d"}}'
    assert filenames("K", line) == ["b c.txt"]
    assert filenames("K", line.replace(b"success", b"error")) == []
    for other in (b'{"status":"success","result":["/files/K/a"]}', b'{"status":"success"}', b"not JSON", None):
        assert filenames("K", other) == []


async def test_scratch_folders_of_workers_that_do_not_live_are_named(house: House) -> None:
    scratch = house.config.scratch_dir
    for name in ("w", "starting", "dead", "very dead"):
        (scratch / name).mkdir(parents=True)
    locks = [ScratchLock(scratch / name) for name in ("starting", "dead")]
    locks[1].close()
    expected = (
        "scratch | {path} | {path} is the scratch folder of a worker that does not live: start a worker, it removes "
        "it, or rm -r {path}"
    )
    assert await found(house) == [expected.format(path=scratch / name) for name in ("dead", "very dead")]
    assert (scratch / "dead").exists(), "the audit only reads"
    locks[0].close()


class ScratchLock:
    """As a worker holds it; `close` is its death."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        os.close(self._descriptor)


# What is no finding


async def test_jobs_of_others_in_the_same_redis_are_none_of_our_business(house: House) -> None:
    for command in (
        "HSET rq:job:theirs origin theirs status queued",
        "SADD rq:job:theirs:dependents x",
        "RPUSH rq:queue:theirs theirs gone",
        "SET rq:queue:theirs:intermediate:first_seen:gone 1",
        "ZADD rq:wip:theirs +inf theirs:1",
        "ZADD rq:finished:theirs 9999999999 gone",
        "SET dragon:account:a:minute:1 1 EX 100",
        "SET elephant 1",
    ):
        await house.redis.command(*command.split(" "))
    assert await found(house) == []
    assert (await house.audit()).waiting == 3


async def test_what_rqs_own_worker_is_about_to_do_is_no_finding(house: House) -> None:
    """It pops a task, lists it as started with a deadline, and its horse claims it; at the end RQ follows dragon."""
    await house.redis.command("LREM", "rq:queue:default", 0, house.keys["waiting"])
    await house.redis.command("ZADD", "rq:wip:default", 9999999999, house.keys["waiting"] + ":6dd4c1a7")
    assert await found(house) == []
    claimed = await tasks.claim(house.redis, house.keys["waiting"], "rq-horse", 60)
    assert claimed is not None
    assert await found(house) == []


async def test_nothing_is_left_of_a_task_of_rqs_own_worker_whose_life_is_over(house: House) -> None:
    """RQ is told to keep a job with files a day longer, so that the sweep finds its files; that goes too."""
    await house.redis.command("ZADD", "rq:finished:default", 9999999999, house.keys["filed"])
    shutil.rmtree(house.config.data_dir / "files")
    assert await tasks.forget(house.redis, [house.keys["filed"]]) == 1
    assert await found(house) == []


async def test_a_life_that_is_nearly_over_ends_in_any_order(house: House) -> None:
    """The sweep, Redis and RQ remove the parts of a task within seconds of each other, each when its turn comes."""
    now = int((await house.redis.command("TIME"))[0])
    for command in (
        "EXPIRE rq:job:{failed} 3",
        "ZREM rq:failed:default {failed}",
        f"ZADD dragon:expiries {now + 3} {{filed}}",
        "ZREM rq:finished:default {filed}",
        f"ZADD rq:finished:default {now + 3} {{nobody}}",
        "SET dragon:reuse:{reuse} {nobody} EX 3",
    ):
        await house.redis.command(*house.fill(command).split(" "))
    assert await found(house) == []


async def test_only_what_two_looks_find_unchanged_is_a_finding(house: House) -> None:
    """A moment is broken in the first look, mended in the second, or broken again after something has happened."""
    await house.redis.command("LREM", "rq:queue:default", 0, house.keys["waiting"])
    await house.redis.command("HINCRBY", names.ACCOUNT + "a", "queued", 1)
    await house.redis.command("HSET", names.TASK + house.keys["reserved"], "status", "x", "line", "none")
    looking = asyncio.create_task(house.audit(4))
    await asyncio.sleep(2)  # between its looks, which take a few milliseconds
    await house.redis.command("RPUSH", "rq:queue:default", house.keys["waiting"])
    fields = await house.redis.command("HGET", names.TASK + house.keys["reserved"], "state")
    state = tasks.State.read(fields)
    await house.redis.command("HSET", names.TASK + house.keys["reserved"], "state", state._replace(seq=9).field())
    report = await looking
    assert report.findings == (), describe(report)
    assert report.unsettled == ("a",), "its tasks have moved, so its counter may be right"
    kinds = [finding.kind for finding in (await house.audit()).findings]
    assert kinds == ["counter", "status"], "at rest both are found"


async def test_what_was_only_overlooked_in_a_moving_list_is_searched_for(house: House) -> None:
    """Lists move while they are read, so two looks may both miss a task; the search is in one step."""
    key = house.keys["waiting"]
    pictures = [picture async for _, picture, _ in examine(house.redis, [key])]
    overlooked = {key: _Displaced(pictures[0])}
    assert await _search(house.redis, overlooked, overlooked) == []


# How it looks


async def test_the_scripts_write_nothing(house: House) -> None:
    """Redis itself refuses writes in EVAL_RO."""
    keys = list(house.keys.values())
    arguments: list[str | int] = [1 << 20, 2, "rq:queue:default", "rq:queue:default@b", *keys]
    _, *answers = await house.redis.command("EVAL_RO", script("examine").source, 0, *arguments)
    assert len(answers) == len(keys)
    await house.redis.command("EVAL_RO", script("examine_lanes").source, 0, "default", "a", "b")


async def test_an_audit_changes_nothing(house: House) -> None:
    async def everything() -> dict[bytes, bytes]:
        keys = await house.redis.command("KEYS", "*")
        return {key: await house.redis.command("DUMP", key) for key in keys}

    await house.redis.command("SADD", "dragon:worker:w:tasks", NOBODY)
    before = await everything()
    assert len(await found(house)) == 1
    assert await everything() == before


async def test_long_lines_are_read_few_at_a_time(house: House) -> None:
    """The lines of a hundred tasks may be a hundred times eight megabytes: one of them ends a trip."""
    new = [new_task() for _ in range(20)]
    await tasks.create(house.redis, "a", new, Usage(), life=LIFE)
    for task in new:
        line = task.line[:-1] + b',"progress":"' + b"x" * 100_000 + b'"}'
        await house.redis.command("HSET", names.TASK + task.key, "line", line)
    keys = [task.key for task in new]
    first = await house.redis.run(script("examine"), (256 * 1024, 0, *keys))
    assert len(first) - 1 == 3
    report = await house.audit()
    assert (report.findings, report.waiting) == ((), 23)


async def test_a_thousand_broken_tasks_are_a_thousand_findings(house: House) -> None:
    """More than are searched for one by one; and lists that are longer than one reply."""
    new = [new_task("low") for _ in range(1300)]
    await tasks.create(house.redis, "a", new, Usage(), life=LIFE)
    assert (await house.audit()).findings == ()
    await house.redis.command("DEL", "rq:queue:low")
    report = await house.audit()
    assert {(finding.kind, finding.name) for finding in report.findings} == {("lost", task.key) for task in new}


# A system at work


@pytest.mark.timeout(150)
async def test_a_system_at_work_has_no_findings_and_is_sound_at_rest(own_system: OwnSystem) -> None:
    """Two thousand tasks of every kind, cancelled ones and wrong ones among them, while one audit follows the other."""
    system = own_system(worker__queues=("high", "default", "low"), worker__concurrency=20)
    system.start_server()
    system.start_worker("--executors", "2")
    redis = Redis(system.config.redis.url, 20)
    definitions: list[dict[str, Any]] = [
        {"task_name": "hello"},
        {"task_name": "test.sleep", "seconds": 0.003},
        {"task_name": "test.async_sleep", "seconds": 0.02},
        {"task_name": "test.file"},
        {"task_name": "test.high"},
        {"task_name": "test.low"},
        {"task_name": "test.progress", "steps": 2, "delay": 0.002},
        {"task_name": "test.task_error"},
        {"task_name": "test.sleep", "wrong": 1},
        {"task_name": "test.sleep", "seconds": 0.001},
    ]
    die_once = {"task_name": "test.die_once"}
    reports = []
    async with system.client() as client:
        await client.run("hello")
        others = asyncio.create_task(_create_for_others(redis))
        batches = [asyncio.create_task(client.stream(die_once, *definitions * 20)) for _ in range(10)]
        working = asyncio.gather(*batches)
        cancelling = asyncio.create_task(_cancel_some(client, redis, working))
        while not working.done():
            reports.append(await audit(system.config, redis, pause=0.1))
            await asyncio.sleep(0.2)  # so that the tasks come to something too
        finals = [line for lines in await working for line in lines[1:] if line["status"] in ("success", "error")]
        cancelled = await cancelling
        await others
    assert [describe(report) for report in reports if not report.is_sound] == []
    print(f"{len(reports)} audits while {len(finals)} tasks ended")
    assert any(report.waiting and report.reserved and report.ended for report in reports)
    assert len(finals) == 2010 - 200, "each but the wrong ones, which have ended in the first line"
    assert cancelled
    await redis.close()
    await assert_sound(system.config)


async def _create_for_others(redis: Redis) -> None:
    """So that there are lanes, and turns."""
    for number in range(30):
        await tasks.create(redis, f"other{number % 3}", [new_task() for _ in range(20)], Usage(), life=LIFE)
        await asyncio.sleep(0.05)


async def _cancel_some(client: Any, redis: Redis, working: asyncio.Future[Any]) -> int:
    """Cancels whatever stands at the end of a list."""
    count = 0
    while not working.done():
        key = await redis.command("LINDEX", "rq:queue:default", -1)
        if key is not None:
            async with client.session.delete(f"/v1/tasks/{key.decode()}", headers=SECRET) as response:
                count += response.status == 200
        await asyncio.sleep(0.02)
    return count


async def test_assert_sound_waits_for_rest_and_tells_what_it_found(house: House) -> None:
    with pytest.raises(AssertionError, match=r"(?s)not sound within 0 s: 3 waiting, 1 reserved, 3 ended"):
        await assert_sound(house.config, timeout=0)
    await assert_sound(house.config, timeout=0, at_rest=False)
    await house.redis.command("RPUSH", "rq:queue:low", NOBODY)
    with pytest.raises(AssertionError, match=f"leftover {NOBODY}: rq:queue:low lists {NOBODY}, which does not exist"):
        await assert_sound(house.config, timeout=0, at_rest=False)
