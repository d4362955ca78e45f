"""Redis is a boundary: whatever is planted there, only dragon's tasks run, and those beside it end as ever."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from dragon.config import ROOT
from dragon.keys import new_key
from dragon.store import names
from tests.figures import FULL, note, scale, seeded
from tests.system import Process, System, environment, eventually

OwnSystem = Callable[..., System]
Hash = dict[str, Any]

#: A Redis that other tests keep from running may be late: "no sign of life" would then be rightly said.
PATIENT = {"redis__timeout": 20}

EVIL = "tests.attack.planted.leave_mark"


def calls(function: str, instance: Any = None, args: Any = (), kwargs: Any = None) -> bytes:
    """The field `data` of an RQ job, in JSON."""
    return orjson.dumps([function, instance, list(args), kwargs or {}])


def pickled(value: Any) -> bytes:
    return pickle.dumps(value)


#: b"c<module>\n<name>\n(tR." calls a function as soon as it is loaded.
PICKLE_BOMB = b"ctests.attack.planted\nleave_mark\n(tR."

#: Fields of a job that RQ or another queue would believe. The task stays dragon's: it runs, and nothing else does.
BELIEVED: dict[str, Hash] = {
    "a pickled call": {"data": pickled((EVIL, None, (), {}))},
    "a pickle that calls when it is loaded": {"data": PICKLE_BOMB},
    "a compressed pickle": {"data": zlib.compress(PICKLE_BOMB)},
    "another function": {"data": calls(EVIL)},
    "a function of the system": {"data": calls("os.system", args=["touch /tmp/dragon-planted"])},
    "a function of an instance": {"data": calls("leave_mark", instance={"py/object": "tests.attack.planted.Bomb"})},
    "more arguments": {"data": calls("dragon.worker.rq_job.run", args=["x", EVIL], kwargs={"function": EVIL})},
    "no data": {"data": b""},
    "data that is no JSON": {"data": b"\x00\xff" * 100},
    "a success callback": {"success_callback_name": EVIL, "success_callback_timeout": 60},
    "a failure callback": {"failure_callback_name": EVIL, "failure_callback_timeout": 60},
    "a stopped callback": {"stopped_callback_name": EVIL, "stopped_callback_timeout": 60},
    "webhooks": {"webhooks": orjson.dumps([{"url": "http://127.0.0.1:9/", "on": "success"}])},
    "another serializer": {"serializer": "pickle", "meta": PICKLE_BOMB, "result": PICKLE_BOMB},
    "a group": {"group_id": "x" * 1000},
    "dependencies": {"dependency_id": "nobody", "dependency_ids": b'["nobody"]', "allow_dependency_failures": 1},
    "repetitions": {"repeats_left": 1000, "repeat_intervals": b"[0]"},
    "retries": {"retries_left": 1000, "number_of_retries": 1000, "retry_intervals": b"[0]"},
    "a worker's name": {"worker_name": "../../etc", "exc_info": PICKLE_BOMB},
    "dates that are none": {"created_at": "yesterday", "enqueued_at": b"\xff", "started_at": "\n"},
    "a timeout that is none": {"timeout": "for ever", "result_ttl": "never", "failure_ttl": b"\xff"},
    "a status that is none": {"status": b"\xff\xfe", "ended_at": "x"},
    "ten thousand fields": {f"field-{number}": "x" for number in range(10_000)},
    "a field of ten megabytes": {"junk": b"x" * 10_000_000},
    "metas that are no JSON": {"metas": b"{]"},
}

#: Fields that dragon itself reads, spoilt. The task is dropped or ends in an error; nothing stumbles over it.
SPOILT: dict[str, Hash] = {
    "no state": {"state": b""},
    "a state of junk": {"state": b"\x00\xff\xfe"},
    "a state with words": {"state": "one two w  "},
    "an attempt that is no integer": {"state": "9" * 400 + " 1 w  "},
    "an attempt beyond floats": {"state": "99999999999999999999 1 w  "},
    "a seq beyond floats": {"state": "0 " + "9" * 400 + " w  "},
    "a seq with an exponent": {"state": "0 99999999999999999999 w  "},
    "an unknown phase": {"state": "0 1 z  "},
    "somebody else's": {"state": "1 1 r nobody-00000000 "},
    "over": {"state": "1 2 e nobody-00000000 "},
    "a thousand feeds": {"state": "0 1 w  " + ",".join(["x" * 20] * 1000)},
    "a feed of junk": {"state": b"0 1 w  \xff\xfe"},
    "no facts": {"facts": b""},
    "facts of junk": {"facts": b"\xff" * 100},
    "no limit of attempts": {"facts": "9" * 400 + " demo "},
    "an account that is another kind of key": {"facts": "1 demo:minute:1 "},
    "an account of a path": {"facts": "1 ../../demo "},
    "a digest of junk": {"facts": "1 demo ../../x"},
    "no line": {"line": b""},
    "a line of junk": {"line": b"\x00\xff\xfe"},
    "a line that is no object": {"line": b"[1, 2]"},
    "a line without events": {"line": b'{"status":"queued","key":"KEY"}'},
    "a line that breaks off": {"line": b'{"status":"queued","key":"KEY","events":{"queued":"2026-01-'},
    "a line of odd types": {"line": b'{"status":[],"key":"KEY","events":{"queued":7}}'},
    "a line of two lines": {"line": b'{"status":"queued","key":"KEY","events":{"queued":"x"}}\n{"status":"success"}'},
    "a line with another key": {"line": b'{"status":"queued","key":"' + b"A" * 26 + b'","events":{"queued":"x"}}'},
    "a line as long as a plain one": {"line": b'{"status":"queued","key":"KEY"' + b"\xff" * 109},
    "no parameters": {"params": None},
    "parameters of junk": {"params": b"\x00\xff\n\n{"},
    "parameters that are no object": {"params": b"[1, 2, 3]"},
    "parameters of a deep nesting": {"params": b"[" * 100_000},
    "no task name": {"description": None},
    "a task name of junk": {"description": b"\xff\xfe"},
    "a task name of a module": {"description": EVIL},
    "a task name of the system": {"description": "os.system"},
    "an empty task name": {"description": b""},
    "no origin": {"origin": None},
    "an origin of junk": {"origin": b"\xff\xfe"},
    "an origin of another queue": {"origin": "elsewhere"},
}

#: Names of jobs that are no keys.
ODD_KEYS = [
    b"",
    b"x",
    b"os.system",
    b"../../../../dragon-planted",
    b"/tmp/dragon-planted",
    b"A" * 25 + b"\n",
    b"a" * 26,
    b"A" * 27,
    b"\xff\xfe\x00",
    b"KEY:1",
    b"x" * 100_000,
]


class Ground:
    """A system whose Redis is in a stranger's hands."""

    def __init__(self, system: System, connection: redis.Redis, chance: random.Random) -> None:
        self.system = system
        self.redis = connection
        self.chance = chance
        self.good: list[str] = []
        self.planted: dict[str, str] = {}  # key -> what was planted

    def hash_of(self, key: str | bytes) -> Hash:
        found: Any = self.redis.hgetall(names.TASK.encode() + (key if isinstance(key, bytes) else key.encode()))
        return {name.decode(): value for name, value in found.items()}

    def change(self, key: str, fields: Hash, what: str) -> None:
        name = names.TASK + key
        for field, value in fields.items():
            if value is None:
                self.redis.hdel(name, field)
            else:
                self.redis.hset(name, field, value.replace(b"KEY", key.encode()) if isinstance(value, bytes) else value)
        self.planted[key] = what

    def push(self, key: str | bytes, queue: str = "default") -> None:
        self.redis.rpush(names.RQ_QUEUE + queue, key)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "planted-code-ran"
    monkeypatch.setenv("PLANTED_MARK", str(path))
    return path


def check_unhurt(system: System, *processes: Process) -> None:
    for process in processes:
        assert process.popen.poll() is None, process.output[-4000:]
        for word in ("Traceback", "internal error", "no sign of life", "cannot reserve"):
            assert word not in process.output, process.output[-6000:]


@pytest.mark.timeout(300)
async def test_jobs_planted_in_the_queues_run_nothing_and_stop_nothing(own_system: OwnSystem, mark: Path) -> None:
    chance = seeded()
    system = own_system(server__file_wait=0.3, worker__lease=2, worker__heartbeat=0.3, worker__stop_grace=1, **PATIENT)
    server = system.start_server()
    with redis.Redis.from_url(system.config.redis.url) as connection:
        ground = Ground(system, connection, chance)
        async with system.client() as client:
            plants = BELIEVED | SPOILT
            definitions = [{"task_name": "hello", "name": str(number)} for number in range(2 * len(plants))]
            keys = [status["key"] for status in await client.create(*definitions)]
            chance.shuffle(keys)
            spoilt = keys[: len(plants)]
            ground.good = keys[len(plants) :]
            template = ground.hash_of(keys[-1])
            for key, (what, fields) in zip(spoilt, plants.items(), strict=True):
                ground.change(key, fields, what)
            _plant_odd_keys(ground, template)
            _plant_wrong_types(ground)
            for number in range(scale(2000, 400)):
                _plant_at_random(ground, template, number)
            worker = system.start_worker("--executors", "2")
            await _ask_about_all(ground, client.session)
            final = await asyncio.wait_for(client.status(*ground.good, block=True), 60)
            assert {status["status"] for status in final} == {"success"}
            await eventually(lambda: connection.llen(names.RQ_QUEUE + "default") == 0, 60)
            for what in BELIEVED:
                key = next(key for key, planted in ground.planted.items() if planted == what)
                status = (await client.status(key, block=True, timeout=45))[0]
                assert status["status"] == "success", what
            for key in [key for key, what in ground.planted.items() if what in SPOILT]:
                status = (await client.status(key))[0]
                assert status["status"] != "success" or ground.planted[key] in _HARMLESS, (ground.planted[key], status)
                if ground.planted[key] not in _HARMLESS and ground.planted[key] != "somebody else's":
                    assert connection.hget(names.TASK + key, "status") != b"started", ground.planted[key]
            await _ask_about_all(ground, client.session)
            assert (await client.run("hello"))["status"] == "success"
            await asyncio.sleep(1)  # signs of life, and what they find
        check_unhurt(system, server, worker)
        assert not mark.exists(), mark.read_text()
        assert not Path("/tmp/dragon-planted").exists()
        assert worker.terminate(60) == 0
    note(
        "boundary",
        f"{len(ground.planted)} planted jobs among {len(ground.good)} good ones: {len(BELIEVED)} ways to name code, "
        f"{len(SPOILT)} spoilt fields, {len(ODD_KEYS)} names that are no keys, wrong types, and random bytes",
        "nothing imported, nothing run; worker and server as before; every good task ended",
        chance,
    )


#: Spoilt in a way that does no harm: the task runs all the same.
_HARMLESS = {"a thousand feeds", "a feed of junk", "no limit of attempts", "a seq with an exponent"}


def _plant_odd_keys(ground: Ground, template: Hash) -> None:
    for key in ODD_KEYS:
        ground.redis.hset(names.TASK.encode() + key, mapping=template)  # type: ignore[arg-type]
        ground.push(key)
        ground.push(key, "low")
    ground.push(new_key())  # a key of nobody's


def _plant_wrong_types(ground: Ground) -> None:
    def as_list(name: str) -> None:
        ground.redis.rpush(name, "x")

    def as_string(name: str) -> None:
        ground.redis.set(name, b"\xff")

    def as_set(name: str) -> None:
        ground.redis.sadd(name, "x")

    for make in (as_list, as_string, as_set):
        key = new_key()
        make(names.TASK + key)
        ground.push(key)
        ground.planted[key] = make.__name__
    ground.redis.set(names.RQ_QUEUE + "low", "not a list")


def _plant_at_random(ground: Ground, template: Hash, number: int) -> None:
    """A job with one or two of its fields replaced by bytes that nobody thought of."""
    key = new_key()
    fields = {name: value.replace(template_key(template), key.encode()) for name, value in template.items()}
    for name in ground.chance.sample(["state", "facts", "line", "params", "description", "origin", "data"], 2):
        old = fields[name]
        at = ground.chance.randrange(len(old) + 1)
        junk = ground.chance.randbytes(ground.chance.randrange(6))
        fields[name] = old[:at] + junk + old[at + ground.chance.randrange(4) :]
    ground.redis.hset(names.TASK + key, mapping=fields)  # type: ignore[arg-type]
    ground.push(key)
    ground.planted[key] = f"random {number}: {fields}"


def template_key(template: Hash) -> bytes:
    found: bytes = template["line"].partition(b'"key":"')[2][:26]
    return found


async def _ask_about_all(ground: Ground, session: Any) -> None:
    """Asks for each planted key in every way: nothing but the contract's answers, each of them JSON."""
    for key, what in ground.planted.items():
        if what.startswith("random") and int(what.split()[1].rstrip(":")) >= 50:
            continue
        for method, path in (
            ("GET", f"/v1/status?tasks={key}"),
            ("GET", f"/v1/status?tasks={key}&details=true"),
            ("GET", f"/v1/file?task={key}"),
        ):
            if "file" in path and what in BELIEVED:
                continue  # hello has none, and a status would be waited for
            async with session.request(method, path, allow_redirects=False) as answer:
                body = await answer.read()
                assert answer.status in (200, 302, 400, 404), (what, path, answer.status, body)
                # Lines pass as they are: whoever writes into one decides what those who ask for its key read.
                if answer.status != 302 and not what.startswith("random"):
                    orjson.loads(body)


@pytest.mark.timeout(200)
async def test_messages_planted_on_the_channels_change_nothing_but_what_they_may(
    own_system: OwnSystem, mark: Path
) -> None:
    chance = seeded()
    system = own_system(worker__lease=2, worker__heartbeat=0.3, **PATIENT)
    server = system.start_server()
    worker = system.start_worker("--executors", "1")
    messages = [
        b"",
        b" ",
        b"\n\n\n",
        b"\xff" * 100,
        b"cancel",
        b"cancel ",
        b"cancel x",
        b"cancel x y",
        b"cancel x y z",
        b"cancel \xff 1",
        b"cancel " + b"A" * 26 + b" 99999999999999999999",
        b"[]",
        b"7",
        b"null",
        b'"shutdown"',
        b'{"command": ["shutdown"]}',
        b'{"command": "stop-job"}',
        b'{"command": "stop-job", "job_id": ["x"]}',
        b'{"command": "kill-horse"}',
        b'{"command": "' + EVIL.encode() + b'"}',
        b'{"command": {"function": "' + EVIL.encode() + b'"}}',
        PICKLE_BOMB,
        b"A" * 26,
        b"A" * 26 + b"F",
        b"A" * 26 + b"Fx {}",
        b"A" * 26 + b"F\xff {}",
        b"\xff" * 26 + b"F1 {}",
        b"KEY.x {}",
        b"KEY.\xff {}",
        b"x" * 1_000_000,
        b"[" * 100_000,
    ]
    messages += [chance.randbytes(chance.randrange(200)) for _ in range(scale(1000, 50))]
    with redis.Redis.from_url(system.config.redis.url) as connection:
        async with system.client() as client:
            stream = asyncio.create_task(client.stream({"task_name": "test.sleep", "seconds": 2}))
            await eventually(lambda: len(_channels(connection)) >= 3, 45)
            channels = _channels(connection)
            found = await eventually(lambda: list(connection.scan_iter(match=names.TASK + "*")))
            key = found[0].decode().removeprefix(names.TASK)
            for message in messages:
                for channel in channels:
                    connection.publish(channel, message.replace(b"KEY", key.encode()))
            lines = await asyncio.wait_for(stream, 60)
            assert lines[-1]["status"] == "success"
            # The feed still hears: without it every end but the first would be late by the ten seconds of its second
            # look; where it hears, one or the other may be late because a process stalls.
            taken = []
            for _ in range(4):
                began = time.monotonic()
                lines = await asyncio.wait_for(client.stream({"task_name": "test.progress"}), 60)
                assert lines[-1]["status"] == "success"
                taken.append(time.monotonic() - began)
            assert min(taken[1:]) < 8, taken
            assert _channels(connection) == channels, "somebody subscribed again"
        check_unhurt(system, server, worker)
        assert not mark.exists()
    note("boundary", f"{len(messages)} messages on {len(channels)} channels", "nothing run, streams go on", chance)


def _channels(connection: redis.Redis) -> set[bytes]:
    found: Any = connection.pubsub_channels("*")
    return set(found)


@pytest.mark.timeout(200)
async def test_names_planted_in_the_books_reach_no_file_and_stop_no_sweep(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    """What is swept is a folder named by Redis: a planted name must not lead anywhere else."""
    system = own_system(files__life=1, files__sweep_interval=0.2, worker__lease=2, worker__heartbeat=0.3, **PATIENT)
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("keep")
    files = system.config.data_dir / "files"
    up = os.path.relpath(treasure, files / "XX")
    odd = [str(treasure), up, f"{up}/", "../" * 10 + str(treasure).lstrip("/"), ".", "..", "", "A" * 26 + "/..", "\n"]
    worker_id = "planted-00000000"
    with redis.Redis.from_url(system.config.redis.url) as connection:
        server = system.start_server()
        worker = system.start_worker("--executors", "1")
        members = [name.encode() for name in odd] + [b"\xff\xfe", b"x" * 10_000]
        connection.zadd(names.EXPIRIES, dict.fromkeys(members, 1))  # type: ignore[arg-type]
        connection.zadd(names.WORKERS, {worker_id: 1, b"\xff\xfe": 1, "x" * 10_000: 1})
        connection.sadd(names.WORKER + worker_id + ":tasks", *members)
        own = next(
            name for name in connection.zrange(names.WORKERS, 0, -1) if name.count(b"-") and b"plant" not in name
        )
        connection.sadd(names.WORKER.encode() + own + b":tasks", *members)
        # Jobs with such names, too: their scratch folder and their files would be there.
        async with system.client() as client:
            status = await client.run("test.file")
            template = connection.hgetall(names.TASK + status["key"])
            template[b"state"] = b"0 1 w  "
            for name in odd:
                connection.hset(names.TASK + name, mapping=template)
                connection.rpush(names.RQ_QUEUE + "default", name)
            await eventually(lambda: connection.zcard(names.EXPIRIES) == 0, 45)
            await eventually(lambda: not connection.exists(names.TASK + status["key"]), 45)
            await eventually(lambda: connection.llen(names.RQ_QUEUE + "default") == 0, 45)
            await asyncio.sleep(1)
            assert (await client.run("test.file"))["status"] == "success"
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()].count("treasure") == 1
        assert (treasure / "gold").read_text() == "keep"
        assert sorted(path.name for path in treasure.iterdir()) == ["gold"]
        check_unhurt(system, server, worker)
    note("boundary", f"{len(members)} planted names of what is to be swept", "no file outside the store touched")


def start_rq_worker(system: System, *options: str) -> Process:
    """RQ's own worker, until the queue is empty."""
    log = system.config.data_dir / f"rq-{len(system.processes)}.log"
    rq = str(Path(sys.executable).parent / "rq")
    command = [rq, "worker", "--burst", "-u", system.config.redis.url, "-S", "rq.serializers.JSONSerializer"]
    # RQ's worker imports what is on its path, and ROOT is where it finds dragon.
    path = {"PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [*command, *options, "default"], cwd=ROOT, env=environment(system.config) | path, stdout=file, stderr=file
        )
    process = Process(popen, log)
    system.processes.append(process)
    return process


#: What RQ's own worker would do for whoever can write to Redis; the rest of BELIEVED stops it, which is RQ's to mend.
TO_RQ = [
    "a pickled call",
    "a pickle that calls when it is loaded",
    "another function",
    "a success callback",
    "a failure callback",
    "webhooks",
    "repetitions",
    "retries",
    "no data",
    "dependencies",
]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "options", [["--job-class", "dragon.worker.rq_job.TaskJob"], []], ids=["dragons job", "rqs job"]
)
async def test_rqs_own_worker_runs_dragons_tasks_only_with_dragons_job_class(
    own_system: OwnSystem, mark: Path, options: list[str]
) -> None:
    """Without it RQ does what a job says: that is why docs/deploy-redis.md names the class."""
    system = own_system()
    system.start_server()
    plants = TO_RQ if options and FULL else TO_RQ[:4] if options else ["another function"]
    with redis.Redis.from_url(system.config.redis.url) as connection:
        async with system.client() as client:
            ground = Ground(system, connection, seeded())
            created = await client.create(*[{"task_name": "hello"}] * len(plants))
            for status, what in zip(created, plants, strict=True):
                ground.change(status["key"], BELIEVED[what], what)
            worker = start_rq_worker(system, *options)
            assert await asyncio.to_thread(worker.popen.wait, 120) == 0, worker.output
            statuses = await client.status(*ground.planted)
            if options:
                assert [status["status"] for status in statuses] == ["success"] * len(plants), worker.output
                assert connection.llen(names.RQ_QUEUE + "default") == 0
                assert connection.zcard(names.RQ + ":scheduled:default") == 0
    assert mark.exists() != bool(options), "the class is no guard" if options else "RQ has changed: say so in the docs"
    if options:
        done = f"{len(plants)} planted jobs, RQ's own worker with dragon's job class"
        note("boundary", done, "nothing imported but dragon's entry, nothing run but tasks")
