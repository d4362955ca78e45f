"""Both clients through bad networks: proxies that cut and that buffer, servers that restart, TLS, other paths."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragon.client import DragonClientError, Timing, Unavailable
from tests.client.both import QUICK, Both, assert_followed
from tests.following import marks, starts
from tests.proxies import EARLY, BufferingProxy, CuttingProxy, HttpProxy, around, before
from tests.server.talking import gauge
from tests.system import System, eventually

Make = Callable[..., Both]

#: Where something may hold streams back, and where tests need not wait long to notice it.
WARY = Timing(first_line=0.5, poll=0.2)


def marking(path: Path, count: int, reports: int, seconds: float) -> list[dict[str, Any]]:
    task = {"task_name": "test.async_mark", "path": str(path), "reports": reports, "seconds": seconds}
    return [task] * count


async def test_streams_that_are_cut_at_random_places_lose_nothing_and_do_nothing_twice(
    system: System, client_of: Make, chance: random.Random, tmp_path: Path
) -> None:
    proxy = CuttingProxy(system.url, chance, around(2500), most=60)
    async with proxy.serving(), client_of(proxy.url, timing=QUICK) as both:
        streams = await asyncio.gather(
            *(both.all("stream", marking(tmp_path / "marks", 5, 8, 0.4 + 0.2 * number)) for number in range(6))
        )
    assert proxy.cuts >= len(EARLY)
    keys = [list(dict.fromkeys(status.key for status in statuses)) for statuses in streams]
    for statuses, own in zip(streams, keys, strict=True):
        ends = assert_followed(statuses, own)
        assert [end.result for end in ends.values()] == [1] * 5
        for key in own:
            told = [status.progress for status in statuses if status.key == key and "progress" in status.raw]
            assert told == sorted(told)
    assert starts(tmp_path / "marks") == Counter([key for own in keys for key in own]), "each task ran once"


async def test_followed_tasks_are_taken_up_again_after_each_cut(
    system: System, client_of: Make, make: Make, chance: random.Random, tmp_path: Path
) -> None:
    proxy = CuttingProxy(system.url, chance, around(800), most=40)
    async with make() as direct, proxy.serving(), client_of(proxy.url, timing=QUICK) as both:
        created = await direct.call("create", marking(tmp_path / "marks", 8, 10, 1.0))
        statuses = await both.all("follow", created)
        assert_followed(statuses, [status.key for status in created])
    assert proxy.cuts >= len(EARLY)


async def test_creations_whose_answers_are_lost_create_each_task_once(
    system: System, client_of: Make, chance: random.Random, tmp_path: Path
) -> None:
    proxy = CuttingProxy(system.url, chance, around(250), most=60)
    async with proxy.serving(), client_of(proxy.url, timing=QUICK) as both:
        made = [await both.call("create", marking(tmp_path / "marks", 2, 0, 0)) for _ in range(25)]
        keys = [status.key for statuses in made for status in statuses]
        results = await both.call("status", keys, block=True)
        assert [status.result for status in results] == [1] * 50
    assert proxy.cuts >= len(EARLY)
    assert len(set(keys)) == 50
    assert starts(tmp_path / "marks") == Counter(keys)


async def test_a_file_through_cuts_is_whole(
    system: System, client_of: Make, chance: random.Random, tmp_path: Path
) -> None:
    text = "".join(chance.choice("abcdef") for _ in range(200_000))
    proxy = CuttingProxy(system.url, chance, before(len(text)), most=len(EARLY) + 14)
    async with client_of(system.url) as direct, proxy.serving(), client_of(proxy.url, timing=QUICK) as both:
        created = (await direct.call("create", ("test.file", {"text": text})))[0]
        for number in range(4):
            path = await both.call("file", created, path=tmp_path / f"{number}.txt")
            assert path.read_text() == text
    # Every second connection at least asks for the file itself, which is longer than what any of the 14 lets through.
    assert proxy.cuts >= len(EARLY) + 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.txt", "1.txt", "2.txt", "3.txt"]


async def test_long_polls_take_over_where_a_proxy_buffers(system: System, client_of: Make, tmp_path: Path) -> None:
    proxy = BufferingProxy(system.url)
    async with proxy.serving(), client_of(proxy.url, timing=WARY) as both:
        statuses = await both.all("stream", marking(tmp_path / "marks", 3, 4, 5.0))
        keys = list(dict.fromkeys(status.key for status in statuses))
        assert_followed(statuses, keys)
        assert len(statuses) > 6, "progress is seen before the end"
        assert starts(tmp_path / "marks") == Counter(keys)
        kinds = [request.partition("?")[0] for request in proxy.requests]
        assert kinds[:2] == ["POST /v1/create_stream", "POST /v1/create"]
        assert set(kinds[2:]) == {"POST /v1/status"}
        assert await both.call("run", "hello") == "Hello World"
        assert [request for request in proxy.requests if "stream" in request] == kinds[:1], "it is known by now"


async def test_a_proxy_that_lets_the_first_line_through_and_holds_back_the_others(
    system: System, client_of: Make, tmp_path: Path
) -> None:
    proxy = BufferingProxy(system.url, first_line=True)
    timing = Timing(heartbeat=0.2, poll=0.2, backoff=0.01)
    async with proxy.serving(), client_of(proxy.url, timing=timing) as both:
        statuses = await both.all("stream", marking(tmp_path / "marks", 1, 6, 4.0))
        assert_followed(statuses, [statuses[0].key])
        assert len(statuses) > 3
        kinds = [request for request in proxy.requests if "stream" in request]
        assert kinds == ["POST /v1/create_stream", "POST /v1/status_stream"]
    assert len(marks(tmp_path / "marks")) == 2


@pytest.mark.timeout(150)  # three processes start
async def test_tasks_are_followed_over_a_restart_of_the_server(
    own_system: Callable[..., System], client_of: Make, tmp_path: Path
) -> None:
    system = own_system(worker__concurrency=20)
    server = system.start_server()
    system.start_worker("--executors", "1")
    async with client_of(system.url, timing=QUICK) as both:
        following = asyncio.create_task(both.all("stream", marking(tmp_path / "marks", 3, 20, 3.0)))
        await eventually(lambda: len(starts(tmp_path / "marks")) == 3, 30)
        server.kill()
        await asyncio.to_thread(system.start_server)
        statuses = await following
        assert_followed(statuses, list(starts(tmp_path / "marks")))
    assert starts(tmp_path / "marks").total() == 3


async def test_a_server_that_is_full_is_asked_again(own_system: Callable[..., System], client_of: Make) -> None:
    system = own_system(server__streams=1, worker__concurrency=20)
    system.start_server()
    system.start_worker("--executors", "1")
    async with client_of(system.url, timing=Timing(backoff=0.01)) as both:
        results = await asyncio.gather(*(both.call("run", "test.async_sleep", seconds=0.5) for _ in range(2)))
        assert results == [0.5, 0.5]
    async with client_of(system.url, timing=Timing(retries=0)) as both:
        slow = (await both.call("create", ("test.async_sleep", {"seconds": 50})))[0]
        following = asyncio.create_task(both.all("follow", slow))
        await eventually(lambda: _has_streams(system, 1))
        with pytest.raises(Unavailable, match="1 streams and waiting calls open") as caught:
            await both.call("run", "hello")
        assert caught.value.retry_after == 2
        await both.call("cancel", slow)
        await following


async def _has_streams(system: System, count: int) -> bool:
    async with system.client() as client, client.session.get("/metrics") as response:
        return gauge(await response.text(), "dragon_streams") == count


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_server_under_another_path(system: System, client_of: Make, host: str) -> None:
    proxy = HttpProxy(system.url)
    proxy.path = "/some/dragon"
    async with proxy.serving(host), client_of(proxy.url + "/", account="demo") as both:
        assert await both.call("run", "hello") == "Hello World"
        created = (await both.call("create", ("test.file", {"text": "x"})))[0]
        assert await both.call("file", created) == b"x"
        assert proxy.requests[-1].startswith("GET /some/dragon/files/")
        assert both.client.img_url("test.file").startswith(f"{proxy.url}/v1/create_file?")
    async with client_of(system.url + "/nothing", timing=QUICK) as both:
        with pytest.raises(DragonClientError, match="there is nothing at this path"):
            await both.call("run", "hello")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("NO OPENSSL: TLS was not tested; apt-get install -y --no-install-recommends openssl")
    folder = tmp_path_factory.mktemp("tls")
    names = [
        "-subj",
        "/CN=dragon",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "keyUsage=critical,digitalSignature,keyCertSign",
    ]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key", "-out", "certificate"]
    subprocess.run([openssl, "req", "-x509", "-days", "2", *key, *names], cwd=folder, check=True, capture_output=True)
    both = folder / "both"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both


async def test_tls_with_a_certificate_that_is_trusted_and_with_one_that_is_not(
    system: System, client_of: Make, certificate: Path
) -> None:
    proxy = HttpProxy(system.url)
    proxy.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    proxy.context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    async with proxy.serving():
        async with client_of(proxy.url, ssl_context=trusting) as both:
            assert await both.call("run", "hello") == "Hello World"
            created = (await both.call("create", ("test.file", {"text": "x"})))[0]
            assert await both.call("file", created) == b"x"
        async with client_of(proxy.url) as both:
            with pytest.raises(
                DragonClientError, match=f"^{proxy.url} is not trusted: .*self-signed certificate"
            ) as caught:
                await both.call("run", "hello")
            assert not isinstance(caught.value, Unavailable), "trying again does not help"
