"""What img tags ask for: GET create_file of a file that is made already, and that file, of one server process."""

from __future__ import annotations

from urllib.parse import urlencode

from bench.load import Connection, get, requests_a_second
from bench.measuring import Candidate, Goal, Table, alternate
from bench.place import Place

REQUESTS = 4000
CONNECTIONS = 64


async def measure(place: Place, rounds: int) -> list[Table]:
    async with place.server() as (_, port), place.bare_http() as (_, bare_port):
        query = urlencode(
            {"task_name": "image.thumb", "width": 300, "url": f"http://127.0.0.1:{port}/static/sample.jpg"}
        )
        page = "Referer: http://localhost/album"  # the demo account allows pictures without a key on this host
        redirect = get(f"/v1/create_file/thumb.jpg?{query}", page)
        path = await make(place, port, redirect)

        async def dragon() -> float:
            return await requests_a_second(port, redirect, connections=CONNECTIONS, count=REQUESTS, expect=b" 302 ")

        async def file() -> float:
            return await requests_a_second(
                port, get(path, page), connections=CONNECTIONS, count=REQUESTS, expect=b" 200 "
            )

        async def bare() -> float:
            request = get(f"/?{query}", page)
            return await requests_a_second(bare_port, request, connections=CONNECTIONS, count=REQUESTS, expect=b" 200 ")

        table = Table(
            "files",
            f"image.thumb for an <img>, made already, {CONNECTIONS} connections",
            "requests/s",
            more_is_better=True,
        )
        table.rows = await alternate(
            [
                Candidate("dragon", "dragon", dragon, "GET create_file, keyless, single flight: 302"),
                Candidate("dragon, the file itself", "dragon", file, "GET /files/...: 200 and the picture"),
                Candidate("bare aiohttp", "yardstick", bare, "the same querystring, answers JSON"),
            ],
            rounds,
        )
        await check_single(port, redirect, path)
    ratio = table.row("dragon").median / table.row("bare aiohttp").median
    table.goals.append(Goal("of the bare aiohttp handler's requests/s", ratio, 0.4, at_least=True))
    return [table]


async def make(place: Place, port: int, request: bytes) -> str:
    """Has a worker make the picture, and returns its path; the worker is gone when it is measured."""
    async with place.worker(PORT=str(port)):  # so that it knows the server's own pictures, and reads them from disk
        connection = await Connection.open(port)
        answer = await connection.ask(request)
        path = location(answer)
        picture = await connection.ask(get(path))
        connection.close()
    if not path.startswith("/files/") or b"image/jpeg" not in picture:
        raise RuntimeError(f"no picture was made: {answer[:500]!r}")
    return path


async def check_single(port: int, request: bytes, path: str) -> None:
    """Raises an error unless the same request still leads to the same picture."""
    connection = await Connection.open(port)
    answer = await connection.ask(request)
    connection.close()
    if location(answer) != path:
        raise RuntimeError(f"the picture was made again: {path} became {location(answer)}")


def location(answer: bytes) -> str:
    """Where a redirect leads to."""
    for line in answer.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"Location":
            return value.decode()
    raise RuntimeError(f"no redirect: {answer[:500]!r}")
