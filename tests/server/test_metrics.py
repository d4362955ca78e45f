"""/metrics: each number is what it says, in a form that Prometheus reads; the Grafana dashboard asks for no other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from dragon.auth import hash_key
from dragon.config import ROOT
from dragon.embedded import EmbeddedRedis
from tests.server.talking import ask, raw
from tests.server.test_redis_away import store  # noqa: F401 - a Redis that the test stops
from tests.system import SECRET, Client, System, eventually

OwnSystem = Callable[..., System]
Samples = dict[tuple[str, ...], float]  # values by the name and the values of the labels, in the labels' order


async def scrape(client: Client) -> Samples:
    answer = await ask(client.session, "GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: Samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation.endswith("."), f"{family.name} is not explained"
        for sample in family.samples:
            place = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert place not in found, f"{place} is there twice"
            found[place] = sample.value
    return found


async def until(client: Client, expected: Samples) -> Samples:
    """Scrapes until these values are there."""

    async def look() -> Samples | None:
        nonlocal found
        found = await scrape(client)
        return found if expected.items() <= found.items() else None

    found: Samples = {}
    try:
        return await eventually(look, 15)  # type: ignore[no-any-return]
    except AssertionError:
        raise AssertionError({place: found.get(place) for place in expected}) from None


async def test_tasks_are_counted_by_name_and_outcome_with_their_times(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        await client.create(*[{"task_name": "hello"}] * 3, {"task_name": "test.raise"}, block=True)
        await client.create({"task_name": "made up"})
        found = await until(
            client,
            {
                ("dragon_tasks_total", "success", "hello"): 3,
                ("dragon_tasks_total", "error", "hello"): 0,
                ("dragon_tasks_total", "error", "test.raise"): 1,
                ("dragon_tasks_total", "error", "unknown"): 1,
                ("dragon_task_running_seconds_count", "hello"): 3,
                ("dragon_task_waiting_seconds_bucket", "+Inf", "hello"): 3,
                ("dragon_task_running_seconds_count", "unknown"): 0,
                ("dragon_redis_up",): 1,
            },
        )
    buckets = [(float(place[1]), value) for place, value in found.items() if place[::2] == (RUNNING, "hello")]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets), "buckets are cumulative"
    assert [bound for bound, _ in buckets][:3] == [0.001, 0.002, 0.004]
    assert 0 < found["dragon_task_running_seconds_sum", "hello"] < 10


RUNNING = "dragon_task_running_seconds_bucket"


async def test_queues_tell_what_waits_in_all_their_lanes_and_for_how_long(own_system: OwnSystem) -> None:
    system = own_system()
    accounts = system.config.data_dir / "accounts.toml"
    demo = (ROOT / "conf" / "accounts.toml").read_text("utf-8")
    accounts.parent.mkdir(parents=True, exist_ok=True)
    accounts.write_text(f'{demo}\n[other]\nsecrets = ["{hash_key("other")}"]\n', "utf-8")
    system.config = system.config.model_copy(update={"accounts": accounts})
    system.start_server()
    async with system.client() as client:
        await client.create(*[{"task_name": "hello"}] * 3, {"task_name": "test.low"})
        body = orjson.dumps({"tasks": [{"task_name": "hello"}] * 2})
        async with client.session.post("/v1/create", data=body, headers={"Authorization": "Secret other"}) as answer:
            assert answer.status == 200
        found = await until(
            client,
            {
                ("dragon_queue_tasks", "default"): 5,
                ("dragon_queue_tasks", "low"): 1,
                ("dragon_queue_tasks", "high"): 0,
                ("dragon_queue_oldest_seconds", "high"): 0,
                ("dragon_queue_paused", "default"): 0,
                ("dragon_workers", "dragon"): 0,
                ("dragon_executors", "def"): 0,
            },
        )
        assert found["dragon_queue_oldest_seconds", "low"] < 60

        async def older() -> bool:
            return (await scrape(client))["dragon_queue_oldest_seconds", "default"] >= 1

        await eventually(older)


async def test_executors_are_busy_while_they_have_a_task(own_system: OwnSystem) -> None:
    system = own_system(worker__heartbeat=0.1)
    system.start_server()
    system.start_worker("--executors", "2")
    async with system.client() as client:
        sleep = {"task_name": "test.sleep", "seconds": 50}
        made = await client.create(sleep, *[sleep | {"task_name": "test.async_sleep"}] * 3)
        keys = [status["key"] for status in made]
        await until(
            client,
            {
                ("dragon_workers", "dragon"): 1,
                ("dragon_workers", "rq"): 0,
                ("dragon_executors", "def"): 2,
                ("dragon_executors_busy", "def"): 1,
                ("dragon_executors", "async"): 1,
                ("dragon_executors_busy", "async"): 1,
                ("dragon_executing_tasks", "async"): 3,
            },
        )
        for key in keys:
            await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, SECRET)
        await until(client, {("dragon_executors_busy", "def"): 0, ("dragon_executing_tasks", "async"): 0})


async def test_requests_are_counted_by_route_and_never_by_what_a_client_wrote(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        await client.create({"task_name": "hello"})
        await ask(client.session, "POST", "/v1/create", {}, SECRET)
        await ask(client.session, "POST", "/v1/create", {})
        file = "/files/AAAAAAAAAAAAAAAAAAAAAAAAAA/secret-name.jpg"
        for path in (file, "/secret/path", "/v1/tasks?secret=querystring"):
            await ask(client.session, "GET", path)
        await ask(client.session, "SECRETMETHOD", "/v1/tasks")
        await ask(client.session, "OPTIONS", "/v1/create")
        await raw(system, b"GET /secret HTTP/1.1\r\nBad header\r\n\r\n")
        async with client.session.get("/static/page.css") as answer:
            tag = {"If-None-Match": answer.headers["ETag"]}
        await ask(client.session, "GET", "/static/page.css", None, tag)
        found = await scrape(client)
        text = (await ask(client.session, "GET", "/metrics")).body.decode()
    counted = {place[1:]: value for place, value in found.items() if place[0] == "dragon_http_requests_total"}
    assert counted == {
        ("POST", "/v1/create", "2xx"): 1,
        ("POST", "/v1/create", "4xx"): 2,
        ("GET", "/files/{key}/{filename}", "4xx"): 1,
        ("GET", "/v1/tasks", "2xx"): 1,
        ("GET", "/static/{name}", "2xx"): 1,
        ("GET", "/static/{name}", "3xx"): 1,
        ("GET", "unknown", "4xx"): 1,
        ("other", "unknown", "4xx"): 2,
        ("OPTIONS", "unknown", "2xx"): 1,
    }
    seconds = {place[1:] for place in found if place[0] == "dragon_http_request_seconds_total"}
    assert seconds == counted.keys()
    assert "secret" not in text.lower()


async def test_a_client_that_leaves_in_the_middle_is_counted_as_gone(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        key = (await client.create({"task_name": "hello"}))[0]["key"]
        leaving = asyncio.create_task(ask(client.session, "GET", f"/v1/status?tasks={key}&block=true"))
        await until(client, {("dragon_streams",): 1})
        await asyncio.sleep(0.4)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        found = await until(client, {("dragon_http_requests_total", "GET", "/v1/status", "left"): 1})
    assert found["dragon_http_request_seconds_total", "GET", "/v1/status", "left"] > 0.3


async def test_without_redis_the_processes_own_numbers_still_come_and_in_time(
    store: EmbeddedRedis,  # noqa: F811
    own_system: OwnSystem,
) -> None:
    system = own_system(redis__url=store.url, redis__timeout=60.0)
    system.start_server()
    async with system.client() as client:
        await until(client, {("dragon_redis_up",): 1, ("dragon_queue_tasks", "default"): 0})
        os.kill(store.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = await until(client, {("dragon_redis_up",): 0})
            assert time.monotonic() - began < 15, "long before Redis is given up"
            assert found["dragon_connections",] == 1
            assert ("dragon_queue_tasks", "default") not in found
        finally:
            os.kill(store.process.pid, signal.SIGCONT)
        await until(client, {("dragon_redis_up",): 1})
        store.stop()
        assert "dragon_http_requests_total" in {place[0] for place in await until(client, {("dragon_redis_up",): 0})}


async def test_many_that_ask_at_once_cost_redis_one_look(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        before = (await scrape(client))["dragon_redis_round_trips",]
        await asyncio.gather(*(scrape(client) for _ in range(50)))
        after = (await scrape(client))["dragon_redis_round_trips",]
    assert after - before < 30


def queries(value: Any) -> list[str]:
    """All expressions in a dashboard."""
    if isinstance(value, dict):
        own = [str(value["expr"])] if "expr" in value else []
        return own + [query for member in value.values() for query in queries(member)]
    return [query for member in value for query in queries(member)] if isinstance(value, list) else []


async def test_the_grafana_dashboard_asks_for_metrics_that_exist(client: Client) -> None:
    dashboard = orjson.loads((ROOT / "conf" / "deploy" / "grafana-dashboard.json").read_bytes())
    await client.create({"task_name": "hello"}, block=True)

    async def has_tasks() -> Samples | None:
        found = await scrape(client)
        return found if any(place[0] == "dragon_tasks_total" for place in found) else None

    names = {place[0] for place in await eventually(has_tasks)}
    asked = queries(dashboard)
    assert len(asked) >= 12
    for query in asked:
        used = re.findall(r"\bdragon_[a-z_]+", query)
        assert used, query
        assert set(used) <= names, query
    own = {name for name in names if name.startswith("dragon_") and not name.endswith(("_sum", "_count", "_created"))}
    shown = set(re.findall(r"\bdragon_[a-z_]+", " ".join(asked)))
    assert own - shown <= {"dragon_redis_up"}, "a metric that nobody looks at"
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


async def test_the_operating_page_names_every_metric_and_no_other(client: Client) -> None:
    families = text_string_to_metric_families((await ask(client.session, "GET", "/metrics")).body.decode())
    spelled = {family.name + "_total" * (family.type == "counter") for family in families}
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    table = text.partition("| metric |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(dragon_[a-z_]+)`", table)) == spelled
