"""GET and POST /v1/status: what is known of tasks, by their keys alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.server.talking import UNKNOWN, ask, bad_request, ended, normalised, queued
from tests.system import SECRET, Client, System

LOST = {"status": "error", "key": UNKNOWN, "result": "unknown task key"}
MALFORMED = "this is not a task key (26 characters A-Z2-7)"


async def test_no_credentials_are_needed(client: Client) -> None:
    key = (await client.run("hello"))["key"]
    answer = await ask(client.session, "GET", f"/v1/status?tasks={key}")
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])
    answer = await ask(client.session, "POST", "/v1/status", {"tasks": key}, {"Authorization": "Secret wrong"})
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])


async def test_doubles_and_unknown_keys_stand_in_their_places(client: Client) -> None:
    one, two = (status["key"] for status in await client.create({"task_name": "hello"}, {"task_name": "test.raise"}))
    await client.status(one, two, block=True)
    wanted = [two, UNKNOWN, one, two, UNKNOWN, one]
    for answer in (
        await ask(client.session, "POST", "/v1/status", {"tasks": wanted}),
        await ask(client.session, "GET", "/v1/status?" + "&".join(f"tasks={key}" for key in wanted)),
        await ask(client.session, "POST", "/v1/status", {"tasks": wanted, "block": True}),
    ):
        assert answer.status == 200
        assert [status["key"] for status in answer.json] == wanted
        assert answer.json[1] == answer.json[4] == LOST
        assert answer.json[0] == answer.json[3]
        assert answer.json[2] == answer.json[5]
        assert [answer.json[i]["status"] for i in (0, 2)] == ["error", "success"]


async def test_block_waits_for_all_and_unknown_keys_do_not_stall_it(client: Client) -> None:
    slow, quick = (
        status["key"]
        for status in await client.create({"task_name": "test.sleep", "seconds": 0.3}, {"task_name": "hello"})
    )
    found = await client.status(quick, UNKNOWN, slow, block=True)
    assert normalised(found) == [
        ended("success", "Hello World", key="KEY 1"),
        LOST | {"key": "KEY 2"},
        ended("success", 0.3, key="KEY 3") | {"progress": "asleep"},
    ]


async def test_a_block_that_times_out_answers_with_the_present_statuses(client: Client) -> None:
    key = (await client.create({"task_name": "test.async_sleep", "seconds": 30}))[0]["key"]
    for answer in (
        await ask(client.session, "GET", f"/v1/status?tasks={key}&block=true&timeout=0.3"),
        await ask(client.session, "POST", "/v1/status", {"tasks": [key], "block": True, "timeout": "0.3"}),
    ):
        assert answer.status == 200
        assert answer.json[0]["status"] in ("queued", "executing")
        assert answer.json[0]["key"] == key
    await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, SECRET)


async def test_white_space_goes_out_while_a_block_waits(impatient: System) -> None:
    async with impatient.client() as client:
        key = (await client.create({"task_name": "test.async_sleep", "seconds": 30}))[0]["key"]
        await client.wait_for_status(key, "executing")
        answer = await ask(client.session, "GET", f"/v1/status?tasks={key}&block=1&timeout=4")
        assert answer.status == 200
        assert answer.body.startswith(b"  ")
        assert answer.json[0]["status"] == "executing"
        await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, SECRET)


async def test_details_add_what_the_client_asked_for(client: Client) -> None:
    metas = {"id": 7, "nested": {"list": [None, "é"]}}
    definition = {"task_name": "hello", "name": "Ann", "task_metas": metas}
    before = datetime.now(UTC)
    status = (await client.create(definition, block=True))[0]
    detailed = (await client.status(status["key"], details=True))[0]
    worker, expires = detailed.pop("worker"), datetime.fromisoformat(detailed.pop("expires"))
    assert detailed == status | {
        "task_name": "hello", "parameters": {"name": "Ann"}, "task_metas": metas, "attempt": 1,
        "traceparent": None,
    }  # fmt: skip
    assert isinstance(worker, str)
    assert worker
    week = timedelta(days=7)
    assert before + week - timedelta(seconds=5) <= expires <= datetime.now(UTC) + week + timedelta(seconds=5)


async def test_details_of_a_task_that_never_ran_and_of_none(client: Client) -> None:
    key = (await client.create({"task_name": "test.echo", "nubmer": 3}))[0]["key"]
    answer = await ask(client.session, "GET", f"/v1/status?tasks={key}&tasks={UNKNOWN}&details=1")
    wrong, lost = answer.json
    assert wrong.keys() == {
        "status", "key", "events", "result", "task_name", "parameters", "task_metas", "attempt", "worker", "expires",
        "traceparent",
    }  # fmt: skip
    members = ("task_name", "parameters", "task_metas", "attempt", "worker")
    assert [wrong[name] for name in members] == ["test.echo", {"nubmer": 3}, None, 0, None]
    assert lost == LOST


async def test_a_key_or_a_password_in_a_refused_task_is_not_kept(client: Client) -> None:
    wrong = {
        "secret": "123456",
        "api_key": ["654321"],
        "name": 3,
        "urls": ["http://a:p/w@b/c?d#e", "https://b/@c", "@"],
    }
    key = (await client.create({"task_name": "hello", **wrong}))[0]["key"]
    assert (await client.status(key, details=True))[0]["parameters"] == {
        "secret": "…",
        "api_key": "…",
        "name": 3,
        "urls": ["http://…@b/c?d#e", "https://…@c", "@"],
    }


async def test_details_of_an_output_file_tell_when_it_is_over(client: Client) -> None:
    key = (await client.run("test.file"))["key"]
    answer = await ask(client.session, "GET", f"/v1/status?tasks={key}&details=true&block=true")
    left = datetime.fromisoformat(answer.json[0]["expires"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7, seconds=5)


async def test_without_details_there_are_no_other_members(client: Client) -> None:
    key = (await client.create({"task_name": "hello", "task_metas": {"a": 1}}, block=True))[0]["key"]
    for details in ("", "&details=false", "&details=0"):
        answer = await ask(client.session, "GET", f"/v1/status?tasks={key}{details}")
        assert normalised(answer.json) == [ended("success", "Hello World")]


async def test_a_thousand_keys_are_taken_and_one_more_is_not(client: Client) -> None:
    assert await client.status(*[UNKNOWN] * 1000) == [LOST] * 1000
    for path in ("/v1/status", "/v1/status_stream"):
        answer = await ask(client.session, "POST", path, {"tasks": [UNKNOWN] * 1001})
        assert (answer.status, answer.json) == (
            400,
            bad_request(("tasks", "body", "1001 task keys in one call, the limit is 1000")),
        )


async def test_a_thousand_keys_fit_into_a_querystring(client: Client) -> None:
    keys = [status["key"] for status in await client.create(*[{"task_name": "hello"}] * 1000, block=True)]
    answer = await ask(client.session, "GET", "/v1/status?" + "&".join(f"tasks={key}" for key in keys))
    assert answer.status == 200
    assert [(status["key"], status["status"]) for status in answer.json] == [(key, "success") for key in keys]


@pytest.mark.parametrize("path", ["/v1/status", "/v1/status_stream", "/v1/stream"])
async def test_malformed_keys_are_named_by_their_places(client: Client, path: str) -> None:
    key = (await client.create({"task_name": "hello"}))[0]["key"]
    values = [key, "x", key.lower(), key + "A", 3, None, ["A"], key + "\n"]
    answer = await ask(client.session, "POST", path, {"tasks": values})
    assert (answer.status, answer.json) == (
        400,
        bad_request(*((f"tasks.{place}", "body", MALFORMED) for place in range(1, 8))),
    )
    answer = await ask(client.session, "GET", f"{path}?tasks={key}&tasks=x")
    assert (answer.status, answer.json) == (400, bad_request(("tasks.1", "querystring", MALFORMED)))


@pytest.mark.parametrize("path", ["/v1/status", "/v1/status_stream"])
async def test_missing_and_empty_tasks_are_a_400(client: Client, path: str) -> None:
    missing, empty = "tasks is missing", "tasks is empty, give at least one task key"
    for body, text in (({}, missing), ({"tasks": None}, missing), ({"tasks": []}, empty), ({"tasks": {}}, MALFORMED)):
        answer = await ask(client.session, "POST", path, body)
        assert (answer.status, answer.json) == (400, bad_request(("tasks", "body", text)))
    answer = await ask(client.session, "GET", path)
    assert (answer.status, answer.json) == (400, bad_request(("tasks", "querystring", missing)))


async def test_all_errors_come_at_once_repeated_parameters_included(client: Client) -> None:
    answer = await ask(client.session, "GET", "/v1/status?block=1&block=0&timeout=-1&details=x&tasks=y")
    assert (answer.status, answer.json) == (
        400,
        bad_request(
            ("block", "querystring", "block may be given once only"),
            ("tasks.0", "querystring", MALFORMED),
            ("timeout", "querystring", "timeout must be a number of seconds, 0 to 300"),
            ("details", "querystring", "details must be true or false"),
        ),
    )


async def test_a_timeout_over_the_limit_is_the_limit_and_not_an_error(client: Client) -> None:
    began = time.monotonic()
    status = (await client.create({"task_name": "hello"}, block=True, timeout=10**9))[0]
    assert status["status"] == "success"
    assert time.monotonic() - began < 20


async def test_a_status_only_goes_forward(client: Client) -> None:
    key = (await client.create({"task_name": "test.progress", "steps": 10, "delay": 0.02}))[0]["key"]
    seen = []
    while not seen or seen[-1]["status"] not in ("success", "error"):
        seen.append((await client.status(key))[0])
    order = {"queued": 0, "executing": 1, "success": 2}
    states = [order[status["status"]] for status in seen]
    assert states == sorted(states)
    steps = [status["progress"]["step"] for status in seen if status.get("progress")]
    assert steps == sorted(steps)
    assert (await client.status(key))[0] == seen[-1]


async def test_the_events_are_in_their_order(client: Client) -> None:
    events = (await client.run("test.sleep"))["events"]
    assert events["queued"] <= events["started"] < events["completed"]


async def test_a_first_status_is_what_status_says_until_a_worker_has_it(client: Client) -> None:
    first = (await client.create({"task_name": "test.low"}))[0]
    assert normalised(first) == queued()
    later = (await client.status(first["key"]))[0]
    assert later["events"]["queued"] == first["events"]["queued"]
