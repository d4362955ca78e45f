"""The bench's own arithmetic, and that each of its parts and peers is there: what it measures is not tested here."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import PARTS
from bench.load import Connection, get
from bench.measuring import Candidate, Goal, Table, alternate
from bench.peers import PEERS
from bench.place import ROOT


async def test_candidates_take_turns_and_the_order_turns_round() -> None:
    order: list[str] = []

    def candidate(name: str) -> Candidate:
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return Candidate(name, "peer", measure)

    rows = await alternate([candidate("a"), candidate("b")], 3)
    assert "".join(order) == "abbaab"
    assert [(row.name, row.values, row.median) for row in rows] == [("a", (1, 4, 5), 4), ("b", (2, 3, 6), 3)]


def test_a_goal_is_a_floor_or_a_ceiling() -> None:
    assert Goal("", 5, 5, at_least=True).holds and not Goal("", 4.9, 5, at_least=True).holds
    assert Goal("", 5, 5, at_least=False).holds and not Goal("", 5.1, 5, at_least=False).holds


async def test_a_report_is_a_table_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Table("part", "a <title>", "tasks/s", more_is_better=True)
    found.rows = await alternate([Candidate("dragon", "dragon", _ten), Candidate("<peer>", "peer", _ten)], 2)
    assert found.best("peer").name == "<peer>"
    found.goals.append(Goal("times the peer", 1, 2, at_least=True))
    report.print_table(found)
    report.write([found], report.machine(), 2, tmp_path)
    assert "MISSED: 1.00 times the peer (goal: at least 2)" in capsys.readouterr().out
    ET.fromstring((tmp_path / "bench.svg").read_text("utf-8"))
    assert '"holds": false' in (tmp_path / "bench.json").read_text()


async def _ten() -> float:
    await asyncio.sleep(0)
    return 10.0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
async def test_the_light_client_waits_for_whole_answers(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                for byte in answer:
                    writer.write(bytes([byte]))
                    await writer.drain()
        writer.close()
        closed.set()

    closed = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = await Connection.open(server.sockets[0].getsockname()[1])
        assert [await connection.ask(get("/")) for _ in range(2)] == [answer, answer]
        connection.close()
        await closed.wait()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_measures(part: str) -> None:
    """Read, not imported: the peers are installed for the bench only."""
    tree = ast.parse((ROOT / "bench" / "parts" / f"{part}.py").read_text("utf-8"))
    (measure,) = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "measure"]
    assert [argument.arg for argument in measure.args.args] == ["place", "rounds"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_peer_has_a_module_and_says_what_it_does_less(peer: object) -> None:
    module = Path(importlib.import_module("bench.peers").__file__ or "").parent / f"{peer.module}.py"  # type: ignore[attr-defined]
    names = {node.name for node in ast.parse(module.read_text("utf-8")).body if hasattr(node, "name")}
    assert {"noop", "enqueue"} <= names
    assert "stored" in peer.note  # type: ignore[attr-defined]
