"""One real Redis a test process, in memory, on a Unix socket."""

from __future__ import annotations

import asyncio
import functools
import inspect
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.system import Client, System, running_system, test_config

TESTS = Path(__file__).parent
SECONDS_OF_FIXTURES = 15  # of pytest-timeout's, which are for a test with its fixtures

#: The files that take longest begin first, so that no process is left alone with one of them at the end.
LONGEST = (
    "browser/test_docs_page.py",
    "worker/test_limits_of_executors.py",
    "js/test_js_client.py",
    "faults/test_kills.py",
    "faults/test_failpoints.py",
    "browser/test_dashboard_alone.py",
    "attack/test_boundary.py",
    "browser/test_dashboard.py",
    "integration/test_files_life.py",
    "client/test_networks.py",
    "integration/test_rq_contract.py",
    "server/test_waiting.py",
    "server/test_redis_away.py",
    "server/test_examples.py",
    "browser/test_page.py",
    "faults/test_servers.py",
    "server/test_slow_clients.py",
    "attack/test_outputs.py",
    "cli/test_doctor_way.py",
    "attack/test_bombs.py",
    "faults/test_up.py",
    "server/test_history.py",
    "faults/test_tenants.py",
    "worker/test_executors.py",
    "cli/test_operating.py",
    "test_supervisor.py",
)


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore SIGINT, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Ends a coroutine that takes too long in its own event loop, a little before pytest-timeout's signal would.

    That raises wherever the process is: in a callback of the loop, say, which swallows it, or in Playwright's reader,
    which is then gone for all tests to come; and there is no second signal.
    """
    function = getattr(item, "obj", None)
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(function):
        return (yield)
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else item.config.getini("timeout")) - SECONDS_OF_FIXTURES

    @functools.wraps(function)
    async def within(*arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(seconds):
            await function(*arguments, **named)

    item.obj = within
    try:
        return (yield)
    finally:
        item.obj = function


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows why a test failed that passed when it was tried once more: it is not to be forgotten."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed at first: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.write_line(f"--- {title}\n{text}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; xdist keeps the order with --no-loadscope-reorder, and the tests of a file stay together."""
    ranks = {str(TESTS / name): rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a server that lives as long as the test process; use `redis_url` in tests."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))  # tmp_path is too long for a socket
    try:
        with EmbeddedRedis(find_server(Config()), folder, folder / "sock", durable=False) as server:
            yield server.url
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """A server and a worker that live as long as the test process; tests share them and never look at all of Redis."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            # The limit on Redis's answers is not what they are about, and a busy machine may need more than usual.
            config = test_config(
                folder, server.url, fetch__allow=("127.0.0.1",), worker__concurrency=20, redis__timeout=20
            )
            with running_system(config, "--executors", "2") as running:
                yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    """Speaks to the shared system."""
    async with system.client() as client:
        yield client


@pytest.fixture
def own_system(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Makes systems whose processes the test starts, kills and restarts; settings by dotted name with `__`."""
    systems: list[System] = []

    def make(**overrides: object) -> System:
        systems.append(System(test_config(tmp_path, redis_url, **overrides)))
        return systems[-1]

    yield make
    for made in systems:
        made.close()
