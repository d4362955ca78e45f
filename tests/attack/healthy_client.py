"""A client beside an attack, in a process of its own: `python -m tests.attack.healthy_client URL SECONDS`.

Prints a JSON list: seconds that each request took, a create and a look at its status in turn.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import orjson

from tests.system import SECRET

PAUSE = 0.01  # seconds between two rounds


async def measure(url: str, seconds: float) -> list[float]:
    taken: list[float] = []
    body = orjson.dumps({"tasks": {"task_name": "hello"}})
    async with aiohttp.ClientSession(url) as session:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            begun = time.perf_counter()
            async with session.post("/v1/create", data=body, headers=SECRET) as response:
                assert response.status == 200, await response.text()
                key = orjson.loads(await response.read())[0]["key"]
            middle = time.perf_counter()
            async with session.get(f"/v1/status?tasks={key}") as response:
                assert response.status == 200, await response.text()
                await response.read()
            taken += [middle - begun, time.perf_counter() - middle]
            await asyncio.sleep(PAUSE)
    return taken


async def measure_apart(url: str, seconds: float) -> list[float]:
    """`measure` in a process of its own: what the attackers' process does meanwhile is not measured with it."""
    command = (sys.executable, "-m", "tests.attack.healthy_client", url, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    taken: list[float] = orjson.loads(output)
    return taken


if __name__ == "__main__":
    print(orjson.dumps(asyncio.run(measure(sys.argv[1], float(sys.argv[2])))).decode())
