"""`dragon audit`: each invariant, broken by hand, is named with what to do; a sound system at work has no findings."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dragon.config import Config
from dragon.connections import Redis
from dragon.errors import ConfigError
from dragon.files.audit import filenames
from dragon.keys import new_key
from dragon.status import ERROR, SUCCESS, Status, parse_line, timestamp
from dragon.store import names, tasks, workers
from dragon.store.audit import Report, audit
from dragon.store.judgement import Finding
from dragon.store.scripts import script
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from dragon.store.workers import WorkerFacts
from tests.auditing import assert_sound, describe
from tests.system import SECRET, System, eventually, test_config
from tests.waiting import wait_for

OwnSystem = Callable[..., System]
LIFE = 1000
NOBODY = "A" * 26
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
        return text.format(**self.keys, **shards, nobody=NOBODY, data=data)


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
            "lost | {waiting} | it waits; a worker of RQ's own has popped it and not begun it, and RQ only fails it, so "
            "it is lost: put it back (LREM rq:queue:default:intermediate 0 {waiting} and "
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
            "place | {waiting} | it waits, and stands in rq:queue:low, which is no list of its queue 'default': take it "
            "out (LREM rq:queue:low 0 {waiting})"
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
            "after it: DEL dragon:worker:w dragon:worker:w:tasks",
            "stuck | {reserved} | the worker w has it, which has no lease, so nobody hands it on: it is stuck; list "
            "that worker (ZADD dragon:workers 0 w), and another hands it on",
        ],
    ),
    "the worker's lease is over": (
        ["ZADD dragon:workers 1 w"],
        [
            "leftover | dragon:workers | the lease of the worker w is over, and nobody has cleaned up after it: start a "
            "worker, it does that within seconds",
            "stuck | {reserved} | the worker w has it, whose lease is over, and no other worker has taken over: start a "
            "worker, it does that within seconds",
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
            "leftover | {waiting} | dragon:worker:w:tasks lists {waiting}, which that worker does not have: take it out "
            "(SREM dragon:worker:w:tasks {waiting})"
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
            "damaged | {failed} | its hash rq:job:{failed} is damaged (state b'1 2 e w ', facts b'nonsense'), so nobody "
            "can work on it: delete it (DEL rq:job:{failed}) and create the task again"
        ],
    ),
    "a task has an unknown phase": (
        [("HSET", "rq:job:{failed}", "state", "1 2 x w ")],
        ["damaged | {failed} | its phase is 'x', which is none of w, r and e: delete it (DEL rq:job:{failed})"],
    ),
    "a waiting task has an owner": (
        [("HSET", "rq:job:{waiting}", "state", "0 1 w w ")],
        [
            "damaged | {waiting} | it waits and yet belongs to the worker w, so no worker takes it: cancel it and "
            "create it again"
        ],
    ),
    "a waiting task has a final status": (
        [("HSET", "rq:job:{waiting}", "line", '{{"status":"success","key":"{waiting}","events":{{}},"result":1}}')],
        [
            "status | {waiting} | it waits, but its stored status is final (success), so clients think that it has "
            "ended: cancel it and create it again"
        ],
    ),
    "a task has another's status": (
        [("HSET", "rq:job:{reserved}", "line", '{{"status":"queued","key":"{waiting}","events":{{}}}}')],
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
            "registry | {reserved} | it is being worked on, but RQ's registry rq:failed:default lists it as ended: take "
            "it out (ZREM rq:failed:default {reserved})",
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
        [("HSET", "rq:job:{failed}", "line", '{{"status":"executing","key":"{failed}","events":{{}}}}')],
        [
            "status | {failed} | it has ended, but its stored status is executing, so clients wait for ever: delete it "
            "(DEL rq:job:{failed}) and create it again"
        ],
    ),
    "an ended task has another's status": (
        [("HSET", "rq:job:{failed}", "line", '{{"status":"error","key":"{filed}","events":{{}},"result":1}}')],
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
        ["ZADD rq:finished:default 9999999999 {failed}", "ZADD rq:failed: 9999999999 {wrong}"],
        [
            "registry | {failed} | it ended in error, but RQ's registry rq:finished:default lists it: take it out "
            "(ZREM rq:finished:default {failed})",
            "registry | {wrong} | it ended in error, but RQ's registry rq:failed: lists it: take it out "
            "(ZREM rq:failed: {wrong})",
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
    "a request is answered for ever": (
        ["PERSIST dragon:reuse:{reuse}", "PERSIST dragon:idempotency:{idempotency}"],
        [
            "idempotency | dragon:idempotency:{idempotency} | dragon:idempotency:{idempotency} answers a repeated "
            "request for ever instead of for a day: EXPIRE dragon:idempotency:{idempotency} 86400",
            "reuse | dragon:reuse:{reuse} | dragon:reuse:{reuse} names {filed}, which has ended, and has itself no end: "
            "DEL dragon:reuse:{reuse}",
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


async def found(house: House) -> list[str]:
    return sorted(f"{one.kind} | {one.name} | {one.sentence}" for one in (await house.audit()).findings)
