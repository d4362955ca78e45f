"""POST /v1/create: the envelope, the tasks in it, and the wait for their end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.talking import DATE, KEY, ask, bad_request, ended, normalised, queued, refused
from tests.system import SECRET, Client, System


async def create(client: Client, body: Any) -> tuple[int, Any]:
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    return answer.status, answer.json


async def test_one_definition_gives_a_list_of_one_status(client: Client) -> None:
    status, body = await create(client, {"tasks": {"task_name": "hello"}})
    assert (status, normalised(body)) == (200, [queued()])
    assert KEY.fullmatch(body[0]["key"])
    assert DATE.fullmatch(body[0]["events"]["queued"])


async def test_the_statuses_come_in_the_order_of_the_tasks(client: Client) -> None:
    definitions = [{"task_name": "hello", "name": str(number)} for number in range(50)]
    status, body = await create(client, {"tasks": definitions, "block": True})
    assert status == 200
    assert [task["result"] for task in body] == [f"Hello {number}" for number in range(50)]
    assert len({task["key"] for task in body}) == 50


async def test_a_thousand_tasks_are_taken_in_one_call(client: Client) -> None:
    status, body = await create(client, {"tasks": [{"task_name": "hello"}] * 1000, "block": True})
    assert status == 200
    assert len({task["key"] for task in body}) == 1000
    assert {(task["status"], task["result"]) for task in body} == {("success", "Hello World")}


@pytest.mark.parametrize("path", ["/v1/create", "/v1/create_stream"])
async def test_a_thousand_and_one_tasks_are_refused(client: Client, path: str) -> None:
    answer = await ask(client.session, "POST", path, {"tasks": [{"task_name": "hello"}] * 1001}, SECRET)
    assert (answer.status, answer.json) == (
        400,
        bad_request(("tasks", "body", "1001 tasks in one call, the limit is 1000: send several calls")),
    )


@pytest.mark.parametrize("value", [True, "true", 1, "1", "True"])
async def test_block_waits_in_all_its_spellings(client: Client, value: object) -> None:
    status, body = await create(client, {"tasks": {"task_name": "test.sleep"}, "block": value})
    assert (status, normalised(body)) == (200, [ended("success", 0.1) | {"progress": "asleep"}])


@pytest.mark.parametrize("value", [False, "false", 0, "0", None, ""])
async def test_without_block_nothing_is_waited_for(client: Client, value: object) -> None:
    status, body = await create(client, {"tasks": {"task_name": "test.sleep"}, "block": value})
    assert (status, normalised(body)) == (200, [queued()])


async def test_a_block_that_times_out_answers_with_the_present_statuses(client: Client) -> None:
    began = time.monotonic()
    status, (slow, quick) = await create(
        client,
        {"tasks": [{"task_name": "test.async_sleep", "seconds": 30}, {"task_name": "hello"}], "block": 1, "timeout": 1},
    )
    assert 1 <= time.monotonic() - began < 10
    assert status == 200
    assert slow["status"] == "executing"
    assert normalised(quick) == ended("success", "Hello World")
    await ask(client.session, "DELETE", f"/v1/tasks/{slow['key']}", None, SECRET)


async def test_a_block_with_timeout_zero_answers_at_once(client: Client) -> None:
    status, body = await create(client, {"tasks": {"task_name": "test.sleep"}, "block": True, "timeout": 0})
    assert (status, normalised(body)) == (200, [queued()])


async def test_white_space_goes_out_while_a_block_waits(impatient: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = {"task_name": "test.async_say", "texts": [], "gate": str(gate)}
    body = orjson.dumps({"tasks": task, "block": True})
    began = time.monotonic()
    async with (
        impatient.client() as client,
        client.session.post("/v1/create", data=body, headers=SECRET) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        async with asyncio.timeout(20):
            spaces = await response.content.readexactly(2)
            gate.touch()
            data = spaces + await response.content.read()
    assert spaces == b"  "
    beats = (time.monotonic() - began) / impatient.config.server.heartbeat
    assert len(data) - len(data.lstrip(b" ")) <= beats
    assert normalised(orjson.loads(data)) == [ended("success", 1)]


async def test_one_bad_task_does_not_stop_the_good_ones(client: Client) -> None:
    definitions = [
        {"task_name": "hello", "name": "Ann"},
        {"task_name": "no.such.task"},
        {"task_name": "helo"},
        {"task_name": "image.info"},
        {"task_name": "image.thumb", "url": "http://example.com/", "widht": 3},
        {"task_name": "test.echo", "number": "three"},
        {"task_name": "hello", "name": "Bob"},
    ]
    status, body = await create(client, {"tasks": definitions, "block": True})
    assert status == 200
    assert normalised(body) == [
        ended("success", "Hello Ann", key="KEY 1"),
        refused("unknown task name, GET /v1/tasks lists them", key="KEY 2"),
        refused("unknown task name, did you mean 'hello'?", key="KEY 3"),
        refused({"parameters": {"url": ["this field is required"]}}, key="KEY 4"),
        refused({"parameters": {"widht": ["unknown parameter, did you mean 'width'?"]}}, key="KEY 5"),
        refused({"parameters": {"number": ["input should be a valid integer"]}}, key="KEY 6"),
        ended("success", "Hello Bob", key="KEY 7"),
    ]


async def test_a_bad_task_is_final_in_the_first_answer_and_stays_known(client: Client) -> None:
    _, (status,) = await create(client, {"tasks": {"task_name": "no.such.task"}})
    assert normalised(status) == refused("unknown task name, GET /v1/tasks lists them")
    assert await client.status(status["key"]) == [status]


async def test_all_errors_of_the_envelope_come_at_once_and_nothing_is_created(client: Client) -> None:
    members = [
        {"task_name": "hello"},
        3,
        {},
        {"task_name": 5},
        {"task_name": ""},
        {"task_name": "hello", "task_metas": 1},
    ]
    status, body = await create(client, {"tasks": members, "block": "perhaps", "timeout": "soon"})
    text = "task_name must be a string of 1 to 200 characters"
    assert (status, body) == (
        400,
        bad_request(
            ("block", "body", "block must be true or false"),
            ("timeout", "body", "timeout must be a number of seconds, 0 to 300"),
            ("tasks.1", "body", "a task definition must be an object with a task_name"),
            ("tasks.2.task_name", "body", "task_name is missing"),
            ("tasks.3.task_name", "body", text),
            ("tasks.4.task_name", "body", text),
            ("tasks.5.task_metas", "body", "task_metas must be an object"),
        ),
    )


async def test_a_wrong_envelope_runs_none_of_its_tasks(client: Client, tmp_path: Any) -> None:
    path = tmp_path / "starts"
    good = {"task_name": "test.count_starts", "path": str(path)}
    assert (await create(client, {"tasks": [good, 3]}))[0] == 400
    await client.run("test.count_starts", path=str(path))  # two executors, one queue: the first would have come first
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("tasks", "error"),
    [
        (None, ("tasks", "body", "tasks must be a task definition (an object) or a list of them")),
        (3, ("tasks", "body", "tasks must be a task definition (an object) or a list of them")),
        ("hello", ("tasks", "body", "tasks must be a task definition (an object) or a list of them")),
        (True, ("tasks", "body", "tasks must be a task definition (an object) or a list of them")),
        ([], ("tasks", "body", "tasks is empty, give at least one task definition")),
        ({}, ("tasks.task_name", "body", "task_name is missing")),
        ([[{"task_name": "hello"}]], ("tasks.0", "body", "a task definition must be an object with a task_name")),
        ([None], ("tasks.0", "body", "a task definition must be an object with a task_name")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/create", "/v1/create_stream"])
async def test_tasks_of_another_kind_are_a_400(client: Client, path: str, tasks: object, error: Any) -> None:
    answer = await ask(client.session, "POST", path, {"tasks": tasks}, SECRET)
    assert (answer.status, answer.json) == (400, bad_request(error))


@pytest.mark.parametrize(
    ("kind", "value"), [("null", None), ("zero", 0), ("empty", ""), ("false", False), ("list", []), ("object", {})]
)
async def test_a_result_that_looks_like_nothing_is_there(client: Client, kind: str, value: object) -> None:
    body = {"tasks": {"task_name": "test.value", "kind": kind}, "block": True}
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    assert normalised(answer.json) == [ended("success", value)]
    assert b'"result":' + orjson.dumps(value) in answer.body  # false is not 0


async def test_the_content_type_does_not_matter(client: Client) -> None:
    body = {"tasks": {"task_name": "hello"}, "block": True}
    for content_type in ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/json", "x/; y"):
        answer = await ask(client.session, "POST", "/v1/create", body, SECRET | {"Content-Type": content_type})
        assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])


async def test_unicode_goes_through_unharmed(client: Client) -> None:
    name = "Zoë 🐉 \u0000 \u2028 </script> ﷽ " + "e\u0301"
    status = (await client.create({"task_name": "hello", "name": name}, block=True))[0]
    assert status["result"] == f"Hello {name}"


async def test_the_reserved_members_are_no_parameters(client: Client) -> None:
    definition = {
        "task_name": "hello",
        "task_store": False,
        "task_metas": {"id": 7},
        "url_callback": "http://example.com/",
        "url_errback": None,
    }
    status, body = await create(client, {"tasks": definition, "block": True})
    assert (status, normalised(body)) == (200, [ended("success", "Hello World")])


async def test_parameters_may_be_called_like_members_of_a_status(client: Client) -> None:
    definition = {"task_name": "test.echo", "name": "n", "key": "k", "text": "t"}
    status = (await client.create(definition, block=True))[0]
    assert status["result"] == {
        "text": "t", "number": 0, "ratio": 0.0, "flag": False, "words": None, "url": None, "name": "n", "key": "k"
    }  # fmt: skip


async def test_no_type_is_converted_in_a_body(client: Client) -> None:
    status = await client.run("test.echo", number="3", flag=1, ratio="1.5", words="one")
    assert normalised(status) == refused(
        {
            "parameters": {
                "number": ["input should be a valid integer"],
                "flag": ["input should be a valid boolean"],
                "ratio": ["input should be a valid number"],
                "words": ["input should be a valid array"],
            }
        }
    )


async def test_calls_that_come_together_get_their_own_answers(client: Client) -> None:
    names = [f"caller {number}" for number in range(40)]
    answers = await asyncio.gather(*(client.create({"task_name": "hello", "name": name}, block=True) for name in names))
    assert [status["result"] for (status,) in answers] == [f"Hello {name}" for name in names]
