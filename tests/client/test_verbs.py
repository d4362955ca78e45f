"""Both clients against a real server and worker: every verb, every error."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragon.client import (
    AsyncDragon,
    BadRequest,
    Dragon,
    DragonClientError,
    NotFound,
    Refused,
    Status,
    TaskFailed,
    Timing,
    Unavailable,
)
from dragon.client.asynchronous import AsyncOperator
from dragon.client.blocking import Operator
from dragon.config import ROOT
from dragon.errors import DragonError
from tests.client.both import Both, assert_followed
from tests.server.talking import gauge
from tests.system import Client, System, eventually, free_port

UNKNOWN = "A" * 26
Make = Callable[..., Both]


async def test_run_gives_the_result(make: Make) -> None:
    async with make() as both:
        assert await both.call("run", "hello", name="Jane") == "Hello Jane"
        assert await both.call("run", "hello") == "Hello World"
        assert await both.call("run", "countdown", {"from": 2}, delay=0.01) == [2, 1]
        assert await both.call("run", "test.echo", {"name": "x"}, text="y", key="z") == {
            "text": "y",
            "number": 0,
            "ratio": 0.0,
            "flag": False,
            "words": None,
            "url": None,
            "name": "x",
            "key": "z",
        }
        values: dict[str, Any] = {"null": None, "zero": 0, "empty": "", "false": False, "list": [], "object": {}}
        for kind, value in values.items():
            assert await both.call("run", "test.value", kind=kind) == value


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("test.task_error", {"message": "no luck"}, "no luck"),
        ("image.thumb", {"widht": 3}, "url: this field is required; widht: unknown parameter, did you mean 'width'?"),
        ("helo", {}, "unknown task name, did you mean 'hello'?"),
    ],
)
async def test_a_failed_task_is_an_exception_with_its_status(
    make: Make, name: str, parameters: dict[str, Any], message: str
) -> None:
    async with make() as both:
        with pytest.raises(TaskFailed) as caught:
            await both.call("run", name, parameters)
        assert (str(caught.value), caught.value.message) == (message, message)
        assert (caught.value.status.status, caught.value.status.known) == ("error", True)
        assert isinstance(caught.value, DragonClientError)
        assert isinstance(caught.value, DragonError), "so that the command line shows it as one sentence"


async def test_a_stream_gives_the_first_statuses_and_every_change(make: Make) -> None:
    async with make() as both:
        statuses = await both.all("stream", ["hello", ("test.progress", {"steps": 3, "delay": 0.5}), "helo"])
        first = statuses[:3]
        keys = [status.key for status in first]
        assert [status.status for status in first] == ["queued", "queued", "error"]
        ends = assert_followed(statuses, keys)
        assert [ends[key].result for key in keys[:2]] == ["Hello World", "done"]
        told = [status.progress for status in statuses if status.key == keys[1] and "progress" in status.raw]
        # In their order, and not all of them: a server that had no turn for a while has the newest only.
        steps: list[Any] = [None, {"step": 0}, {"step": 1}, {"step": 2}]
        places = [steps.index(progress) for progress in told]
        assert places == sorted(places)
        assert (len(set(places)) > 1, places[-1]) == (True, 3)
        again = await both.all("follow", [*keys, keys[0]])
        assert [status.raw for status in again] == [ends[key].raw for key in keys]
        assert [one.raw for one in await both.all("follow", first[0])] == [ends[keys[0]].raw]


async def test_created_tasks_are_looked_at_followed_and_waited_for(make: Make, tmp_path: Path) -> None:
    async with make() as both:
        waiting = {"task_name": "test.async_say", "texts": [], "gate": str(tmp_path / "gate")}
        created = await both.call("create", [waiting, "hello"])
        assert [(status.status, status.final) for status in created] == [("queued", False)] * 2
        early = await both.call("status", created, block=True, timeout=0.01)
        assert early[0].status in ("queued", "executing")
        (tmp_path / "gate").touch()
        slow, quick = await both.call("status", [status.key for status in created], block=True)
        assert (slow.result, quick.result) == (1, "Hello World")
        detailed = (await both.call("status", quick, details=True))[0]
        assert (detailed.raw["task_name"], detailed.raw["attempt"]) == ("hello", 1)
        doubled = await both.call("status", [quick, UNKNOWN, quick])
        assert [(status.key, status.known) for status in doubled] == [
            (quick.key, True),
            (UNKNOWN, False),
            (quick.key, True),
        ]


async def test_cancel_ends_a_task(make: Make) -> None:
    async with make() as both:
        created = (await both.call("create", ("countdown", {"from": 1000})))[0]
        cancelled = await both.call("cancel", created)
        assert (cancelled.status, cancelled.result) == ("error", "cancelled")
        with pytest.raises(NotFound, match="unknown task key"):
            await both.call("cancel", UNKNOWN)
        with pytest.raises(BadRequest, match="not a task key"):
            await both.call("cancel", "../../x")


async def test_an_output_file_is_read_or_written_to_a_path(make: Make, tmp_path: Path) -> None:
    async with make() as both:
        one, two, none = await both.call(
            "create", [("test.file", {"text": "ab", "seconds": 0.1}), ("test.two_files", {"text": "x"}), "hello"]
        )
        assert await both.call("file", one) == b"ab"
        assert await both.call("file", one.key, "any.txt") == b"ab"
        assert await both.call("file", two, "large") == b"x" * 1000
        assert await both.call("file", two, "small", path=tmp_path / "small.txt") == tmp_path / "small.txt"
        assert await both.call("file", two, "large", path=str(tmp_path / "large.txt")) == tmp_path / "large.txt"
        assert (tmp_path / "small.txt").read_text() == "x"
        assert (tmp_path / "large.txt").read_text() == "x" * 1000
        for task, name, error, text in [
            (two, None, NotFound, "the filename is missing, choose one of: 'small', 'large'"),
            (two, "medium", NotFound, "'medium' is not a valid filename"),
            (none, None, NotFound, "no output file"),
            (UNKNOWN, None, NotFound, "unknown task key"),
            ("x", None, BadRequest, "not a task key"),
        ]:
            with pytest.raises(error, match=text):
                await both.call("file", task, name, path=tmp_path / "wrong")
        failed = (await both.call("create", ("test.task_error", {"message": "no luck"})))[0]
        with pytest.raises(TaskFailed, match="no luck"):
            await both.call("file", failed)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["large.txt", "small.txt"]


async def test_the_catalogue_and_any_other_call(make: Make) -> None:
    async with make() as both:
        assert {"hello", "countdown", "image.thumb"} <= {task["name"] for task in await both.call("tasks")}
        assert (await both.call("call", "GET", "/healthz"))["status"] == "ok"
        with pytest.raises(BadRequest) as caught:
            await both.call("call", "POST", "/v1/create", {"tasks": [], "block": 5})
        assert [(error.name, error.location) for error in caught.value.errors] == [("block", "body"), ("tasks", "body")]
        with pytest.raises(DragonClientError, match="PUT is not allowed here"):
            await both.call("call", "put", "/v1/create")
        with pytest.raises(NotFound, match="there is nothing at this path"):
            await both.call("call", "GET", "/v1/nothing?x=1")
        for path in ("v1/tasks", "/v1/tasks?a=b c", "/v1/\r\nX: y"):
            with pytest.raises(ValueError, match="a path begins with / and is URL-encoded"):
                await both.call("call", "GET", path)


async def test_the_url_of_an_image_works_in_a_browser_that_has_no_key(make: Make, client: Client) -> None:
    async with make(account="demo") as both:
        url = both.client.img_url("test.file", {"text": "äö&="}, filename="a.txt", sign=True)
        async with client.session.get(url) as answer:
            assert (answer.status, await answer.text()) == (200, "äö&=")
        async with client.session.get(url.replace("task_name", "task_name=x&task_name")) as answer:
            assert answer.status == 401
        past = both.client.img_url("test.file", sign=True, expires=1)
        async with client.session.get(past) as answer:
            assert answer.status == 401


async def test_credentials_that_are_wrong_or_missing(make: Make) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"secret": "sesame"}, "unknown secret key"),
        ({"secret": None}, "no credentials"),
        ({"secret": None, "api_key": "sesame", "origin": "http://localhost"}, "unknown api key"),
        ({"secret": None, "api_key": "654321", "origin": "http://evil.test"}, "whitelist"),
    ]
    for settings, text in cases:
        async with make(**settings) as both:
            for verb in ("run", "create"):
                with pytest.raises(Refused, match=text) as caught:
                    await both.call(verb, "hello")
                assert "sesame" not in str(caught.value)
            with pytest.raises(Refused, match=text):
                await both.all("stream", "hello")
            assert "sesame" not in repr(both.client)
    async with make(secret=None, api_key="654321", origin="http://localhost") as both:
        assert await both.call("run", "hello") == "Hello World"


async def test_a_server_that_is_not_there_or_is_no_dragon(client_of: Callable[..., Both]) -> None:
    port = free_port()
    once = Timing(retries=1, backoff=0.01)
    async with client_of(f"http://127.0.0.1:{port}", timing=once) as both:
        with pytest.raises(Unavailable, match=f"^cannot reach http://127.0.0.1:{port}: Connection refused$"):
            await both.call("run", "hello")
    async with client_of("http://no-such-host.invalid", timing=once) as both:
        with pytest.raises(Unavailable, match=r"^cannot reach http://no-such-host\.invalid: "):
            await both.call("tasks")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    async with server, client_of(f"http://127.0.0.1:{port}", timing=once) as both:
        with pytest.raises(Unavailable, match=f"^lost the connection to http://127.0.0.1:{port}: ."):
            await both.call("tasks")


async def test_a_stream_that_is_left_early_is_closed_and_its_place_is_free(make: Make, client: Client) -> None:
    async def streams() -> float:
        async with client.session.get("/metrics") as response:
            return gauge(await response.text(), "dragon_streams")

    async with make() as both:
        created = await both.call("create", [("countdown", {"from": 1000})] * 2)
        assert len(await both.all("follow", created, most=2)) == 2
        await eventually(lambda: _is(streams, 0))
        following = both.client.follow(created)
        await (asyncio.to_thread(next, following) if both.is_blocking else anext(following))
        assert await streams() == 1
        del following
        await eventually(lambda: _is(streams, 0))
        for status in created:
            await both.call("cancel", status)


async def _is(measure: Callable[[], Any], value: float) -> bool:
    return bool(await measure() == value)


def test_threads_share_a_client(system: System) -> None:
    found: dict[int, list[Any]] = {}
    with Dragon(system.url, secret="123456") as client:

        def work(number: int) -> None:
            found[number] = [client.run("hello", name=f"{number}.{turn}") for turn in range(10)]

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [f"Hello {number}.{turn}" for turn in range(10)] for number in range(8)}


def test_a_blocking_client_keeps_its_connection_for_the_next_call(system: System) -> None:
    with Dragon(system.url, secret="123456") as client:
        ports = set()
        for _ in range(5):
            assert client.run("hello") == "Hello World"
            client.tasks()
            ports.add(client._pool._idle[0][2]._http.sock.getsockname()[1])
            assert len(client._pool._idle) == 1
        assert len(ports) == 1


async def test_an_async_client_serves_many_calls_at_once(system: System) -> None:
    async with AsyncDragon(system.url, secret="123456") as client:
        results = await asyncio.gather(*(client.run("hello", name=str(number)) for number in range(150)))
    assert results == [f"Hello {number}" for number in range(150)]


def test_both_clients_have_the_same_verbs_with_the_same_parameters() -> None:
    for one, other in ((Dragon, AsyncDragon), (Operator, AsyncOperator)):
        verbs = {name for name in dir(one) if not name.startswith("_")}
        assert verbs == {name for name in dir(other) if not name.startswith("_")}
        for verb in verbs - {"close"}:
            assert inspect.signature(getattr(one, verb)) == inspect.signature(getattr(other, verb)), verb
            assert getattr(one, verb).__doc__ == getattr(other, verb).__doc__
            assert getattr(one, verb).__doc__, verb
            assert getattr(one, verb).__name__ == verb
    ways = inspect.signature(Dragon), inspect.signature(AsyncDragon)
    assert ways[0].parameters == ways[1].parameters


def test_a_status_says_what_a_reader_wants_and_not_everything() -> None:
    raw = {"key": UNKNOWN, "status": "success", "events": {"queued": "x"}, "result": 5}
    assert repr(Status.read(raw)) == (
        f"Status(key='{UNKNOWN}', status='success', events={{'queued': 'x'}}, progress=None, result=5)"
    )


def test_a_blocking_client_works_on_both_sides_of_a_fork(system: System) -> None:
    program = f"""
import os
from dragon.client import Dragon
with Dragon({system.url!r}, secret="123456") as client:
    print(client.run("hello", name="before"), flush=True)
    child = os.fork()
    for number in range(20):
        assert client.run("hello", name=f"{{child}}.{{number}}") == f"Hello {{child}}.{{number}}"
    if child:
        print(os.waitpid(child, 0)[1], flush=True)
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.stderr) == ("Hello before\n0\n", "")
