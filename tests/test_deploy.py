"""conf/deploy: each file is read as what it is for reads it, held against the settings, and proxies are really run."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from dragon.config import ROOT, load_config, settings
from dragon.embedded import STOP_SECONDS
from dragon.server.app import create_app
from tests.system import SECRET, System, free_port
from tests.waiting import PATIENCE, wait_until

DEPLOY = ROOT / "conf" / "deploy"
UNITS = ["dragon.service", "dragon-server.service", "dragon-worker.service"]

#: From SIGTERM until a process has ended by itself, at the latest.
SERVER_STOP = load_config(environ={}).server.stop_grace + 2
WORKER_STOP = load_config(environ={}).worker.stop_grace + 5


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def needs(command: str) -> str:
    found = shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"NO {command.upper()}: what conf/deploy says to it was not tried; apt-get install {command}")
    return found


def known_variable(name: str) -> bool:
    """Whether a variable of the environment is a setting of dragon's."""
    from dragon.config import _SHORT

    short = {variable for variables in _SHORT.values() for variable in variables}
    setting = name.removeprefix("DRAGON_").lower().replace("__", ".").removesuffix("_file")
    return name in short | {"DRAGON_CONFIG"} or setting in settings()


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_variable_that_the_files_name_is_a_setting(path: Path) -> None:
    for name in set(re.findall(r"\bDRAGON_[A-Z_]+[A-Z]", path.read_text("utf-8"))):
        assert known_variable(name), name


def test_the_page_on_deployment_names_every_file() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    for path in DEPLOY.iterdir():
        assert path.name in page, path.name


# --- Docker -----------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, with their continued lines in one."""
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_runs_as_a_user_by_number_and_says_whether_it_is_healthy() -> None:
    last = dict(instructions())  # of each kind the last one, that is, the second stage's
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]), "Kubernetes' runAsNonRoot needs a number"
    assert "/healthz" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["python", "-m", "dragon"]
    order = [word for word, _ in instructions()]
    assert order.index("USER") > max(index for index, word in enumerate(order) if word == "RUN")
    assert order.count("FROM") == 2, "the tools of the build are not in the image"
    for word, rest in instructions():
        assert word not in ("ADD", "MAINTAINER")
        assert "latest" not in rest or word != "FROM"


def test_what_the_image_copies_is_there_and_let_in() -> None:
    let_in = re.findall(r"^!(.+)$", text_of("Dockerfile.dockerignore"), re.MULTILINE)
    copied = [path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]]
    assert sorted(copied) == sorted(let_in)
    for path in copied:
        assert (ROOT / path).exists(), path


def test_the_images_health_check_tells_a_server_that_is_up_from_one_that_is_not(system: System) -> None:
    command = json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])
    command[0] = shutil.which("python3") or command[0]
    for port, healthy in ((system.config.server.port, True), (free_port(), False)):
        done = subprocess.run(command, env={**os.environ, "PORT": str(port)}, capture_output=True, timeout=PATIENCE)
        assert (done.returncode == 0) is healthy, done.stderr


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(text_of("docker-compose.yml"))
    return read


def test_compose_starts_a_server_a_worker_and_a_durable_redis() -> None:
    services = compose()["services"]
    assert services.keys() == {"redis", "server", "worker"}
    redis = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in redis
    assert "noeviction" in redis
    assert "--requirepass" in redis, "tasks run in a container that reaches it"
    for name in ("server", "worker"):
        service = services[name]
        assert service["command"] == [name]
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "data:/var/lib/dragon" in service["volumes"], "output files are shared"
    assert seconds(services["server"]["stop_grace_period"]) > SERVER_STOP
    assert seconds(services["worker"]["stop_grace_period"]) > WORKER_STOP
    assert all("healthcheck" in service for service in services.values())
    assert [port.split(":")[0] for port in services["server"]["ports"]] == ["127.0.0.1"]


def test_compose_keeps_redis_and_the_accounts_away_from_who_needs_them_not() -> None:
    whole = compose()
    assert whole["networks"]["back"] == {"internal": True}
    assert whole["services"]["redis"]["networks"] == ["back"]
    assert "ports" not in whole["services"]["redis"]
    assert not any("accounts" in volume for volume in whole["services"]["worker"]["volumes"])
    used = {volume.partition(":")[0] for service in whole["services"].values() for volume in service["volumes"]}
    assert used == whole["volumes"].keys()
    assert {network for service in whole["services"].values() for network in service["networks"]} == whole[
        "networks"
    ].keys()


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


# --- systemd ----------------------------------------------------------------------------------------------------------


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text_of(name))
    return parser


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_units(name: str, tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    # The program is not installed here: what it says about that is not about the unit.
    text = text_of(name).replace("/opt/dragon/bin/dragon", "/bin/true")
    (tmp_path / name).write_text(text)
    done = subprocess.run([analyze, "verify", str(tmp_path / name)], capture_output=True, text=True, timeout=PATIENCE)
    about = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, about) == (0, [])


def test_systemd_would_not_accept_a_misspelt_directive(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    text = text_of("dragon.service").replace("/opt/dragon/bin/dragon", "/bin/true")
    (tmp_path / "wrong.service").write_text(text.replace("ProtectHome=", "ProtectHouse="))
    done = subprocess.run([analyze, "verify", str(tmp_path / "wrong.service")], capture_output=True, text=True)
    assert "ProtectHouse" in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_systemd_counts_the_units_among_the_safe_ones(name: str) -> None:
    done = subprocess.run(
        [needs("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(DEPLOY / name)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        ("dragon.service", SERVER_STOP + WORKER_STOP + STOP_SECONDS + 2),
        ("dragon-server.service", SERVER_STOP),
        ("dragon-worker.service", WORKER_STOP),
    ],
)
def test_units_give_a_process_the_time_that_its_settings_promise_and_take_its_children_with_it(
    name: str, longest: float
) -> None:
    service = unit(name)["Service"]
    assert float(service["TimeoutStopSec"]) > longest
    assert service["KillMode"] == "mixed", "SIGTERM for dragon alone; what is left when it has ended is killed"
    assert service["RestartPreventExitStatus"] == "78", "EXIT_CONFIG"
    assert service.get("OOMPolicy", "") == ("" if name == "dragon-server.service" else "continue")


def test_a_units_command_exists() -> None:
    from dragon.cli import COMMANDS

    assert [unit(name)["Service"]["ExecStart"].split()[1] for name in UNITS] == ["up", "server", "worker"]
    assert {"up", "server", "worker"} <= COMMANDS.keys()


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text_of("kubernetes.yaml")))


def deployments() -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in manifests() if item["kind"] == "Deployment"}


def test_kubernetes_would_accept_the_manifests() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="NO KUBERNETES-VALIDATE: pip install kubernetes-validate (108 MB of schemas)"
    )
    for manifest in manifests():
        validate.validate(manifest, "1.30", strict=True)


def test_selectors_find_the_pods_that_are_meant() -> None:
    pods = {name: item["spec"]["template"]["metadata"]["labels"] for name, item in deployments().items()}
    for name, item in deployments().items():
        assert item["spec"]["selector"]["matchLabels"] == pods[name]
    for kind, selector in (
        ("Service", lambda item: item["spec"]["selector"]),
        ("PodDisruptionBudget", lambda item: item["spec"]["selector"]["matchLabels"]),
    ):
        [found] = [item for item in manifests() if item["kind"] == kind]
        assert [name for name, labels in pods.items() if selector(found).items() <= labels.items()] == ["dragon-server"]


def test_probes_ask_for_paths_that_exist() -> None:
    app = create_app(load_config(environ={}), "redis://127.0.0.1:1")
    routes = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    [container] = deployments()["dragon-server"]["spec"]["template"]["spec"]["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert set(paths.values()) <= routes
    assert {port["name"] for port in container["ports"]} == {"http"}


@pytest.mark.parametrize(("name", "longest"), [("dragon-server", 5 + SERVER_STOP), ("dragon-worker", WORKER_STOP)])
def test_pods_have_the_time_to_end_and_no_rights_that_they_need_not(name: str, longest: float) -> None:
    pod = deployments()[name]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > longest
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:10001" == dict(instructions())["USER"]
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    assert ("accounts" in volumes) is (name == "dragon-server"), "tasks could read them"


# --- Proxies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_proxy(tmp_path: Path) -> Iterator[Callable[[list[str], int], None]]:
    """Starts a proxy and waits until its port answers; ends it after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(command: list[str], port: int) -> None:
        with (tmp_path / "proxy.log").open("wb") as log:
            environ = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True))
        wait_until(lambda: answers(port) or started[-1].poll() is not None, what="the proxy")
        assert started[-1].poll() is None, (tmp_path / "proxy.log").read_text()

    yield run
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start_nginx(run: Callable[[list[str], int], None], folder: Path, text: str, upstream: int) -> int:
    nginx, port = needs("nginx"), free_port()
    text = text.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{upstream};")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"pid {folder}/nginx.pid;\nerror_log stderr;\ndaemon off;\nmaster_process off;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    tested = subprocess.run([nginx, "-t", "-p", str(folder), "-c", str(config)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr, tested.stderr
    run([nginx, "-p", str(folder), "-c", str(config)], port)
    return port


def start_caddy(run: Callable[[list[str], int], None], folder: Path, upstream: int) -> int:
    caddy, port = needs("caddy"), free_port()
    text = text_of("Caddyfile")
    formatted = subprocess.run([caddy, "fmt", str(DEPLOY / "Caddyfile")], capture_output=True, text=True)
    assert formatted.stdout == text
    text = text.replace("dragon.example.com {", f"http://127.0.0.1:{port} {{").replace(
        "127.0.0.1:8000", f"127.0.0.1:{upstream}"
    )
    config = folder / "Caddyfile"
    config.write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    run([caddy, "run", "--adapter", "caddyfile", "--config", str(config)], port)
    return port


def status_on_the_way(port: int, direct: int, gate: Path, *, most: float = PATIENCE) -> tuple[str, Any]:
    """What a task does when the line that it executes has come through the proxy, and what comes there in the end.

    The task goes on to its end when that was looked at, and after `most` seconds at the latest: a proxy may hold lines.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * PATIENCE)
    body = orjson.dumps({"tasks": {"task_name": "test.say", "texts": [], "gate": str(gate)}})
    last_moment = threading.Timer(most, gate.touch)
    last_moment.start()
    try:
        connection.request("POST", "/v1/create_stream", body, {**SECRET, "Accept-Encoding": "gzip, br"})
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Encoding"]) == (200, None)
        lines = map(orjson.loads, response)
        key = next(lines)[0]["key"]
        first = next(line for line in lines if line["status"] != "queued")
        at_the_server = http.client.HTTPConnection("127.0.0.1", direct, timeout=PATIENCE)
        at_the_server.request("GET", f"/v1/status?tasks={key}")
        status = orjson.loads(at_the_server.getresponse().read())[0]["status"]
        at_the_server.close()
        gate.touch()
        *_, last = [first, *lines]
    finally:
        last_moment.cancel()
        connection.close()
    return status, last["result"]


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_a_stream_comes_in_pieces_through_the_proxy(
    system: System, run_proxy: Callable[[list[str], int], None], tmp_path: Path, proxy: str
) -> None:
    direct = system.config.server.port
    if proxy == "nginx":
        port = start_nginx(run_proxy, tmp_path, text_of("nginx.conf"), direct)
    else:
        port = start_caddy(run_proxy, tmp_path, direct)
    assert status_on_the_way(port, direct, tmp_path / "gate") == ("executing", 1)


PLAIN = "server {{ listen 80; location / {{ proxy_pass http://127.0.0.1:{upstream}; {more} }} }}\n"


def test_nginx_as_it_comes_lets_streams_through_because_dragon_asks_it_to(
    system: System, run_proxy: Callable[[list[str], int], None], tmp_path: Path
) -> None:
    direct = system.config.server.port
    port = start_nginx(run_proxy, tmp_path, PLAIN.format(upstream=direct, more=""), direct)
    assert status_on_the_way(port, direct, tmp_path / "gate")[0] == "executing"


def test_nginx_that_is_told_not_to_listen_holds_the_stream_until_its_end(
    system: System, run_proxy: Callable[[list[str], int], None], tmp_path: Path
) -> None:
    direct = system.config.server.port
    deaf = PLAIN.format(upstream=direct, more="proxy_ignore_headers X-Accel-Buffering;")
    port = start_nginx(run_proxy, tmp_path, deaf, direct)
    found, _ = status_on_the_way(port, direct, tmp_path / "gate", most=2)
    assert found == "success", "the tests above would not notice a proxy that buffers"


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_the_proxy_lets_the_page_and_the_key_through_and_stops_what_is_too_large(
    system: System, run_proxy: Callable[[list[str], int], None], tmp_path: Path, proxy: str
) -> None:
    direct = system.config.server.port
    if proxy == "nginx":
        port = start_nginx(run_proxy, tmp_path, text_of("nginx.conf"), direct)
    else:
        port = start_caddy(run_proxy, tmp_path, direct)

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    hello = b'{"api_key": "654321", "tasks": {"task_name": "hello"}, "block": true}'
    assert ask("POST", "/v1/create", hello, Origin="http://localhost")[0] == 200
    assert ask("POST", "/v1/create", hello, Referer="http://localhost/page")[0] == 200
    assert ask("POST", "/v1/create", hello, Origin="http://elsewhere.example")[0] == 401
    assert ask("POST", "/v1/create", b'{"tasks": {"task_name": "hello"}}', **SECRET)[0] == 200
    assert ask("GET", "/docs")[0] == 200
    assert ask("GET", "/metrics")[0] == 200, "from this machine"
    status, answer = ask("POST", "/v1/create", b" " * (1 << 20) + hello, **SECRET)
    assert (status, orjson.loads(answer)["status"]) == (413, "error"), "the proxy's own answer is no JSON"
    assert ask("POST", "/v1/create", b" " * (3 << 20) + hello, **SECRET)[0] in (413, 502)
    assert ask("GET", "/v1/create_file/x.txt?task_name=test.file&text=proxy&secret=123456")[0] == 302
