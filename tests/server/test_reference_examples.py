"""The examples of the reference text, replayed: requests as they are printed, but for the hosts; answers as a whole.

The golden file is reference_examples.json. Where the reference prints no request (the 404 and the 400 of create_file),
the request is one that gives the printed answer. One printed request is no JSON, because it has a comma after the last
task: bodies are JSON, so it is a 400 that says where the comma is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.talking import UNKNOWN, ask, ended, normalised, queued
from tests.system import SECRET, Client

EXAMPLES: list[dict[str, Any]] = orjson.loads(Path(__file__).with_name("reference_examples.json").read_bytes())
TWO_HELLOS = b"""{
    "tasks": [
        {"task_name": "hello", "name": "John"},
        {"task_name": "hello", "name": "Jane"}
    ]
}"""


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["title"] for example in EXAMPLES])
async def test_the_example_gives_the_printed_answer(client: Client, pictures: str, example: dict[str, Any]) -> None:
    def moved(text: str) -> str:
        return text.replace("http://files.com", pictures).replace("http://foo.com", pictures)

    request = example["request"]
    body = moved(request["body"]).encode() if request["body"] is not None else None
    answer = await ask(client.session, request["method"], moved(request["path"]), body, request["headers"])
    found: dict[str, Any] = {"status": answer.status}
    keys: dict[str, str] = {}
    if "Location" in answer.headers:
        found["location"] = normalised(answer.headers["Location"], keys)
    found["body"] = normalised(answer.json, keys) if answer.body else None
    assert found == example["answer"]


async def read_stream(response: Any) -> list[Any]:
    return [orjson.loads(line) async for line in response.content]


def check_two_hellos(lines: list[Any]) -> None:
    """The stream of the reference: a list in the order of the tasks, then interleaved statuses, a final one each."""
    keys: dict[str, str] = {}
    first, *rest = normalised(lines, keys)
    assert first == [queued(key="KEY 1"), queued(key="KEY 2")]
    executing = [line for line in rest if line["status"] == "executing"]
    finals = [line for line in rest if line["status"] != "executing"]
    for line in executing:
        assert line == {"status": "executing", "key": line["key"], "events": {"queued": "DATE", "started": "DATE"}}
    assert sorted(finals, key=lambda line: line["key"]) == [
        ended("success", "Hello John", key="KEY 1"),
        ended("success", "Hello Jane", key="KEY 2"),
    ]
    for key in ("KEY 1", "KEY 2"):
        assert [line["status"] for line in rest if line["key"] == key] in (["success"], ["executing", "success"])


async def test_create_stream_gives_the_lines_that_are_printed(client: Client) -> None:
    async with client.session.post("/v1/create_stream", data=TWO_HELLOS, headers=SECRET) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/x-ndjson"
        check_two_hellos(await read_stream(response))


async def test_status_is_asked_for_two_keys_and_waits_for_both(client: Client) -> None:
    one, two = (status["key"] for status in await client.create(*orjson.loads(TWO_HELLOS)["tasks"]))
    answer = await ask(client.session, "GET", f"/v1/status?tasks={one}&tasks={two}&block=true")
    assert answer.status == 200
    assert normalised(answer.json) == [
        ended("success", "Hello John", key="KEY 1"),
        ended("success", "Hello Jane", key="KEY 2"),
    ]
    assert [status["key"] for status in answer.json] == [one, two]


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/status_stream"])
async def test_the_streams_of_two_keys_are_had_under_both_names(client: Client, path: str) -> None:
    definition = {"task_name": "test.sleep", "seconds": 0.2}
    one, two = (status["key"] for status in await client.create(definition, definition))
    async with client.session.get(f"{path}?tasks={one}&tasks={two}") as response:
        assert response.status == 200
        first, *rest = await read_stream(response)
    assert [status["key"] for status in first] == [one, two]
    ends = [
        line for line in [*first, *rest] if line["status"] == "success"
    ]  # some in the first line, if they are quick
    finals = normalised(ends, {one: "KEY 1", two: "KEY 2"})
    assert sorted(finals, key=lambda line: str(line["key"])) == [
        ended("success", 0.2, key=key) | {"progress": "asleep"} for key in ("KEY 1", "KEY 2")
    ]


async def test_file_redirects_to_the_output_of_an_existing_task(client: Client, pictures: str) -> None:
    key = (await client.create({"task_name": "image.thumb", "url": f"{pictures}/cat.jpg"}))[0]["key"]
    answer = await ask(client.session, "GET", f"/v1/file/cat.jpg?task={key}")
    assert (answer.status, answer.headers["Location"], answer.body) == (302, f"/files/{key}/output.jpg", b"")
    file = await ask(client.session, "GET", answer.headers["Location"])
    assert (file.status, file.headers["Content-Type"], file.body[:2]) == (200, "image/jpeg", b"\xff\xd8")


async def test_the_keys_that_the_reference_prints_are_well_formed_and_not_known_here(client: Client) -> None:
    printed = ["6GRQ3H5EHU7GXUTIOSS2GUDPGQ", "5OYA5JQVFIAHYOMLQG5QV3U33M"]
    answer = await ask(client.session, "GET", f"/v1/status?tasks={printed[0]}&tasks={printed[1]}&block=true")
    assert answer.status == 200
    assert answer.json == [{"status": "error", "key": key, "result": "unknown task key"} for key in printed]
    assert UNKNOWN not in printed


async def test_a_progress_stands_in_the_status_as_in_the_reference(client: Client) -> None:
    key = (await client.create({"task_name": "test.sleep", "seconds": 50}))[0]["key"]
    status = await client.wait_for_status(key, "executing")
    while "progress" not in status:  # the first executing line is written before the task's first report
        status = (await client.status(key))[0]
    assert normalised(status) == {
        "status": "executing",
        "key": "KEY 1",
        "progress": "asleep",
        "events": {"started": "DATE", "queued": "DATE"},
    }
    await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, SECRET)
