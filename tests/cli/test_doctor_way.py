"""`dragon doctor URL`: each fault of a proxy is found, and nothing is found where there is none."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dragon.cli import dragon
from dragon.cli.doctor import way
from dragon.cli.doctor.advice import LINES, lines_against
from dragon.cli.doctor.exchange import Exchange
from dragon.cli.doctor.finding import Finding
from tests.cli.bad_proxy import Faults, FaultyProxy
from tests.system import SECRET, System, eventually, free_port

ALL = {
    "server",
    "ready",
    "compression",
    "buffering",
    "http",
    "cors",
    "preflight",
    "authorization",
    "origin",
    "referer",
    "body",
    "head",
    "files",
    "range",
}


@pytest.fixture
def slow_countdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines so far apart that a machine which stands still for a second is not taken for a proxy that gathers them."""
    monkeypatch.setattr(way, "DELAY", 0.6)


async def look(
    url: str, *, secret: str | None = "123456", api_key: str | None = "654321", idle: float = 0
) -> list[Finding]:
    return await asyncio.to_thread(lambda: list(way.examine(Exchange(url), secret, api_key, idle)))


async def look_through(system: System, faults: Faults, **more: float) -> list[Finding]:
    async with FaultyProxy(system.url, faults).serving() as proxy:
        return await look(proxy.url, **more)


def told(findings: list[Finding], *levels: str) -> dict[str, str]:
    return {found.about: found.level for found in findings if found.level in levels}


@pytest.mark.usefixtures("slow_countdown")
async def test_a_server_without_a_proxy_is_well(system: System) -> None:
    findings = await look(system.url)
    assert told(findings, "ok") == dict.fromkeys(ALL, "ok"), findings
    assert len(findings) == len(ALL)


@pytest.mark.usefixtures("slow_countdown")
async def test_a_proxy_without_faults_is_well_but_for_the_address_in_results(system: System) -> None:
    findings = await look_through(system, Faults())
    assert told(findings, "ok", "warning") == dict.fromkeys(ALL, "ok") | {"files": "warning"}, findings
    (files,) = [found.sentence for found in findings if found.about == "files"]
    assert files.startswith(f"results name them at {system.url}, and not at http://127.0.0.1:")
    assert "server.public_url" in files


FAULTS: dict[str, tuple[Faults, dict[str, str]]] = {
    "buffers": (Faults(buffers=True), {"buffering": "buffers"}),
    "gathers": (Faults(gathers=4), {"buffering": "buffers"}),
    "compresses": (
        Faults(compresses=True),
        {"compression": "compresses", "buffering": "buffers", "http": "http10"},
    ),
    "strips Authorization": (Faults(strips=frozenset({"authorization"})), {"authorization": "authorization"}),
    "strips Origin": (Faults(strips=frozenset({"origin"})), {"origin": "origin"}),
    "strips Referer": (Faults(strips=frozenset({"referer"})), {"referer": "referer"}),
    "strips Range": (Faults(strips=frozenset({"range"})), {"range": "range"}),
    "doubles Allow-Origin": (
        Faults(adds=(("Access-Control-Allow-Origin", "https://doctor.example"),)),
        {"cors": "cors", "preflight": "preflight"},
    ),
    "names another Allow-Origin": (
        Faults(
            hides=frozenset({"access-control-allow-origin"}),
            adds=(("Access-Control-Allow-Origin", "https://one.example"),),
        ),
        {"cors": "cors"},
    ),
    "hides Allow-Origin": (
        Faults(hides=frozenset({"access-control-allow-origin"})),
        {"cors": "cors", "preflight": "preflight"},
    ),
    "hides Allow-Headers": (Faults(hides=frozenset({"access-control-allow-headers"})), {"preflight": "preflight"}),
    "refuses OPTIONS": (Faults(refuses=frozenset({"OPTIONS"})), {"preflight": "preflight"}),
    "refuses HEAD": (Faults(refuses=frozenset({"HEAD"})), {"head": "head"}),
    "limits bodies": (Faults(most_body=100_000), {"body": "body"}),
    "asks by HTTP/1.0": (Faults(asks_http10=True), {"http": "http10"}),
}


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("slow_countdown")
async def test_each_fault_of_a_proxy_is_found_and_no_other(system: System) -> None:
    looks = await asyncio.gather(*(look_through(system, faults) for faults, _ in FAULTS.values()))
    found = {
        name: {one.about: one.fault for one in findings if one.fault}
        for name, findings in zip(FAULTS, looks, strict=True)
    }
    assert found == {name: expected for name, (_, expected) in FAULTS.items()}
    for findings in looks:
        assert not told(findings, "skipped"), findings
        assert told(findings, "problem").keys() <= {one.about for one in findings if one.fault}, findings


def test_every_row_of_the_advice_is_somebodys_remedy() -> None:
    found = {fault for _, expected in FAULTS.values() for fault in expected.values()}
    assert LINES.keys() == found | {"idle"}


@pytest.mark.skipif(shutil.which("nginx") is None, reason="NO NGINX: its lines were not tried")
def test_nginx_understands_its_lines(tmp_path: Path) -> None:
    lines = "\n".join(line for row in LINES.values() for line in row.nginx)
    server = f"server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://127.0.0.1:1;\n{lines}\n}} }}"
    paths = " ".join(f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "conf").write_text(f"pid {tmp_path}/pid; events {{}}\nhttp {{ access_log off; {paths}\n{server} }}")
    command = ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("caddy") is None, reason="NO CADDY: its lines were not tried")
def test_caddy_understands_its_lines(tmp_path: Path) -> None:
    lines = "\n".join(line for row in LINES.values() for line in row.caddy)
    (tmp_path / "Caddyfile").write_text(f":1 {{\nreverse_proxy 127.0.0.1:1 {{\n{lines}\n}}\n}}\n")
    command = ["caddy", "validate", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    environ = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=environ)
    assert done.returncode == 0, done.stderr


async def test_a_proxy_that_cuts_idle_streams_is_found(own_system: Callable[..., System]) -> None:
    system = own_system(server__heartbeat=0.3)
    system.start_server()
    system.start_worker("--executors", "1")
    findings = await look_through(system, Faults(idle=0.15), idle=0.9)
    idle = next(found for found in findings if found.about == "idle")
    assert (idle.level, idle.fault) == ("problem", "idle")
    assert re.match(r"a quiet stream was cut after \d+\.\d s \(", idle.sentence)
    findings = await look_through(system, Faults(), idle=0.9)
    idle = next(found for found in findings if found.about == "idle")
    assert idle.level == "ok", idle

    async def is_nothing_left_open() -> bool:
        async with system.client() as client, client.session.get("/metrics") as answer:
            return "dragon_streams 0.0" in (await answer.text()).splitlines()

    await eventually(is_nothing_left_open)


async def test_heartbeats_that_are_held_back_are_found(
    own_system: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "SILENCE", 3.0)
    system = own_system(server__heartbeat=0.2)
    system.start_server()
    system.start_worker("--executors", "1")
    findings = await look_through(system, Faults(buffers=True), idle=9)
    idle = next(found for found in findings if found.about == "idle")
    assert (idle.level, idle.fault) == ("problem", "buffers")
    assert idle.sentence == "not a byte of a quiet stream came for 3 s: its heartbeats are held back"


async def test_without_keys_what_needs_them_is_skipped_and_says_what_is_missing(system: System) -> None:
    findings = await look(system.url, secret=None, api_key=None)
    assert told(findings, "skipped", "problem", "warning") == {"streams": "skipped", "files": "skipped"}
    (streams,) = [found.sentence for found in findings if found.about == "streams"]
    assert streams == "needs a secret key: DRAGON_SECRET, or --secret-file"


async def test_a_wrong_key_is_told_and_never_repeated(system: System) -> None:
    findings = await look(system.url, secret="a-wrong-key")
    (buffering,) = [found for found in findings if found.about == "buffering"]
    assert buffering == Finding("skipped", "buffering", "create_stream answers 401: unknown secret key")
    assert "a-wrong-key" not in str(findings)


async def test_a_server_without_a_worker_is_not_ready_and_its_streams_are_not_judged(
    own_system: Callable[..., System],
) -> None:
    system = own_system()
    system.start_server()
    findings = await look(system.url)
    assert told(findings, "problem") == {"ready": "problem"}
    assert told(findings, "skipped") == {"streams": "skipped", "files": "skipped"}


async def test_a_countdown_that_no_worker_takes_in_time_is_taken_back(own_system: Callable[..., System]) -> None:
    system = own_system()
    system.start_server()
    system.start_worker("--executors", "1", "--queues", "high")
    findings = await asyncio.to_thread(
        lambda: list(way.examine(Exchange(system.url, timeout=3), "123456", "654321", 0))
    )
    assert told(findings, "skipped")["buffering"] == "skipped"
    async with system.client() as client:
        path = "/v1/operator/tasks?name=countdown&state="
        async with client.session.get(f"{path}waiting", headers=SECRET) as answer:
            assert (await answer.json())["tasks"] == []
        async with client.session.get(f"{path}error", headers=SECRET) as answer:
            assert [row["message"] for row in (await answer.json())["tasks"]] == ["cancelled"]


@pytest.mark.parametrize(
    ("moments", "level"),
    [
        ([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.5], "ok"),
        ([4.0, 4.1, 4.4, 4.6, 4.8, 5.2, 5.4, 5.6, 5.6], "ok"),
        ([1.5] * 9, "problem"),
        ([0.0, *[1.5] * 8], "problem"),
        ([0.0, 0.0, 0.0, 0.75, 0.75, 0.75, 1.5, 1.5, 1.5], "problem"),
    ],
)
def test_the_moments_of_arrival_are_judged(moments: list[float], level: str) -> None:
    assert way.judge_moments(moments).level == level


def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(dragon, ["doctor", *arguments], env={"DRAGON_SECRET": None, **environ})
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("slow_countdown")
def test_the_command_prints_a_line_a_finding_and_ends_with_0_when_all_is_well(system: System) -> None:
    code, output, errors = run(system.url)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"ok       server: dragon 0.1.0 answers at {system.url}"
    assert lines[-1] == "all is well"
    assert len(lines) == len(ALL) + 1


@pytest.mark.usefixtures("slow_countdown")
async def test_the_command_prints_the_lines_for_nginx_and_caddy_and_ends_with_1(system: System) -> None:
    async with FaultyProxy(system.url, Faults(asks_http10=True)).serving() as proxy:
        code, output, _ = await asyncio.to_thread(run, proxy.url)
        assert code == 1
        assert output.endswith(
            "\n\nnginx, in the location of dragon:\n    proxy_http_version 1.1;\n"
            '    proxy_set_header Connection "";\n'
            "Caddy, in the reverse_proxy of dragon:\n    transport http {\n        versions 1.1\n    }\n\n"
            "1 problem, 1 warning\n"
        )
        code, output, _ = await asyncio.to_thread(run, proxy.url, "--json")
    report = json.loads(output)
    assert (code, report["well"]) == (1, False)
    assert {found["about"]: found["level"] for found in report["findings"]} == dict.fromkeys(ALL, "ok") | {
        "http": "problem",
        "files": "warning",
    }
    assert report["lines"] == list(lines_against({"http10"}))


def test_nobody_there_is_said_to_be_so() -> None:
    code, output, _ = run(f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "cannot be reached" in output
    assert "does dragon run there?" in output


async def test_something_that_is_no_dragon_is_said_to_be_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        code, output, _ = await asyncio.to_thread(run, url)
    assert code == 1
    assert f"problem  server: {url}/healthz answers 200 and not as dragon does" in output


def test_what_is_no_address_is_a_usage_error() -> None:
    code, output, errors = run("ftp://example.com")
    assert (code, output) == (2, "")
    assert "'ftp://example.com' is not the address of a server: write http://host:port or https://host" in errors
