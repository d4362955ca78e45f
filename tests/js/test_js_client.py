"""The JavaScript client in Node: the *.test.js beside this, on a real dragon and through bad networks."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import playwright
import pytest

from dragon.config import ROOT, Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.figures import seeded
from tests.proxies import EARLY, BufferingProxy, CuttingProxy, anywhere
from tests.system import System, running_system, test_config

pytestmark = pytest.mark.timeout(150)

FOLDER = ROOT / "dragon" / "server" / "js"
TESTS = Path(__file__).parent
PATIENCE = 120.0  # seconds for a file of tests, on a machine that has much else to do
#: Connections that may be cut. Should all of them hit the same request, and nothing get through for so long, then the
#: client's pauses, 10 s at most and 5 s on the average, are over within PATIENCE all the same.
MOST = len(EARLY) + 12
BUNDLED = Path(playwright.__file__).parent / "driver" / "node"  # the wheel brings one


def nodes() -> list[str]:
    """The Node of Playwright's wheel and, where it is another and new enough, the machine's."""
    found = [str(BUNDLED)]
    installed = shutil.which("node")
    if installed:
        version = subprocess.run([installed, "--version"], capture_output=True, text=True).stdout
        found += [installed] if int(version.lstrip("v").partition(".")[0]) >= 20 else []
    return found


NODES = pytest.mark.parametrize("node", nodes(), ids=lambda path: "bundled" if path == str(BUNDLED) else "installed")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A dragon that sends a sign of life twice a second."""
    folder = tmp_path_factory.mktemp("d")
    with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
        config = test_config(
            folder, server.url, server__heartbeat=0.5, fetch__allow=("127.0.0.1",), worker__concurrency=50
        )
        with running_system(config, "--executors", "2") as running:
            yield running


async def run_tests(node: str, name: str, **environment: str) -> str:
    """Runs a file of tests in Node; its output is shown when one fails, or none has run."""
    process = await asyncio.create_subprocess_exec(
        node, "--test", "--test-reporter=tap", str(TESTS / name), cwd=ROOT, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    killing = asyncio.get_running_loop().call_later(PATIENCE, process.kill)
    output = (await process.communicate())[0].decode()
    killing.cancel()
    assert process.returncode == 0, output
    passed = re.search(r"^# pass (\d+)$", output, re.MULTILINE)
    assert passed, output
    assert int(passed[1]) > 0, output
    return output


@NODES
async def test_what_it_makes_of_answers_byte_for_byte(node: str) -> None:
    await run_tests(node, "wire.test.js")


@NODES
async def test_its_verbs_on_a_real_dragon(quick: System, node: str) -> None:
    await run_tests(node, "client.test.js", DIRECT=quick.url, SAMPLE=f"{quick.url}/static/sample.jpg")


def check_marks(path: Path, wanted: int) -> None:
    """Each task has started once: a create whose answer was lost and that was repeated made no second task."""
    counts = Counter(line.split()[0] for line in path.read_text().splitlines())
    assert len(counts) == wanted
    assert set(counts.values()) == {1}


@NODES
async def test_through_a_proxy_that_cuts_anywhere(quick: System, node: str, tmp_path: Path) -> None:
    async with CuttingProxy(quick.url, seeded(), anywhere(), most=MOST).serving() as proxy:
        environment = {"CUTTING": proxy.url, "CUTS": str(len(EARLY)), "MARKS": str(tmp_path / "marks")}
        output = await run_tests(node, "network.test.js", DIRECT=quick.url, **environment)
        assert "# pass 1\n" in output
        print(f"{proxy.cuts} cuts")
        assert proxy.cuts >= len(EARLY)
    check_marks(tmp_path / "marks", 3 + 40 + 2)


@NODES
async def test_through_a_proxy_that_buffers(quick: System, node: str, tmp_path: Path) -> None:
    async with BufferingProxy(quick.url).serving() as proxy:
        output = await run_tests(
            node, "network.test.js", DIRECT=quick.url, BUFFERING=proxy.url, MARKS=str(tmp_path / "marks")
        )
        assert "# pass 3\n" in output
        assert proxy.asked("/v1/status") > 5
    check_marks(tmp_path / "marks", 3 + 10 + 2)


def test_it_is_small_as_it_is_served_and_published() -> None:
    assert len(gzip.compress((FOLDER / "dragon.js").read_bytes(), 9)) <= 5000
    assert len(gzip.compress((FOLDER / "dragon-elements.js").read_bytes(), 9)) <= 3000


def test_the_package_has_all_files_and_needs_no_other() -> None:
    package = json.loads((FOLDER / "package.json").read_text())
    assert not {"dependencies", "peerDependencies", "optionalDependencies", "scripts"} & package.keys()
    named = {file for entry in package["exports"].values() for file in entry.values()} | set(package["files"])
    assert {name.removeprefix("./") for name in named} == {"dragon.js", "dragon-elements.js", "dragon.d.ts"}
    for name in ("dragon.js", "dragon-elements.js"):
        imports = re.findall(r'\bfrom "([^"]+)"|\bimport\("([^"]+)"\)', (FOLDER / name).read_text())
        assert {first or second for first, second in imports} <= {"./dragon.js"}
