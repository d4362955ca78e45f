"""The docs are held against the code: every route, setting and task is named, links lead somewhere, examples run."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragon.client import Dragon
from dragon.client.blocking import Operator
from dragon.config import ROOT, load_config, settings
from dragon.server.app import create_app
from dragon.task import Registry, load_tasks
from tests.language_examples import run_example
from tests.shell_examples import run_shell
from tests.system import Client, System

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES_ADDRESS = "http://127.0.0.1:8000"


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, kind: str) -> list[str]:
    """The contents of the fenced blocks of a kind."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_tasks(("tasks",))


def test_the_api_page_names_every_route_and_no_other() -> None:
    app = create_app(load_config(environ={}), "redis://127.0.0.1:1")
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)`", text_of("docs/api.md")))
    assert named == routes


def test_the_settings_file_documents_every_setting_with_its_default_and_a_sentence() -> None:
    text = text_of("conf/dragon.toml")
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in settings().items()}
    assert flat(tomllib.loads(text)) == {name: str(v) if isinstance(v, Path) else v for name, v in defaults.items()}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("# "), f"no sentence above {line}"


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_the_settings_page_names_every_short_name_in_the_environment() -> None:
    from dragon.config import _SHORT

    text = text_of("docs/settings.md")
    for setting, names in _SHORT.items():
        assert setting in settings()
        for name in names:
            assert f"`{name}`" in text


def test_settings_that_the_docs_mention_exist() -> None:
    sections = {name.partition(".")[0] for name in settings() if "." in name}
    files = {"dragon.toml", "dragon.task"}
    for page in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)`", page.read_text("utf-8")):
            assert name in settings() or name in files, f"{page.name} mentions {name}"


def test_the_catalogue_page_has_every_task_with_its_parameters_and_output_files(registry: Registry) -> None:
    rows = dict(re.findall(r"^\| `([a-z.]+)` \|(.*)$", text_of("docs/tasks.md"), re.MULTILINE))
    assert rows.keys() == registry.tasks.keys()
    for name, task in registry.tasks.items():
        parameters, _, files = rows[name].rstrip("| ").partition(" | ")[0], "", rows[name].split("|")[-2]
        assert set(re.findall(r"`(\w+)`", parameters)) == set(task.fields), name
        assert set(re.findall(r"`(\w+)`", files)) == set(task.outputs), name
        for field, attribute in task.fields.items():
            required = task.model.model_fields[attribute].is_required()
            assert (f"`{field}`*" in parameters) is required, f"{name} {field}"


def test_the_commands_that_the_docs_mention_exist() -> None:
    from dragon.cli import COMMANDS

    makefile = text_of("Makefile")
    for page in PAGES:
        text = page.read_text("utf-8")
        for command in re.findall(r"`dragon ([a-z]+)", text):
            assert command in COMMANDS, f"{page.name}: dragon {command}"
        for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
    readme = text_of("README.md")
    assert set(re.findall(r"`([a-z]+)`", readme.partition("the command `dragon`:")[2].partition("|")[0])) == set(
        COMMANDS
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = page.parent / path if path else page
        assert found.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(found.read_text("utf-8")), f"{target}: there is no such heading"


def anchors(text: str) -> set[str]:
    """Headings as GitHub spells their anchors."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_folders_that_the_readme_maps_exist() -> None:
    table = text_of("README.md").partition("## The house")[2].partition("##")[0]
    named = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    paths = [path for cell in named for path in re.findall(r"`([^`]+)`", cell)]
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).exists(), path


EXAMPLES = [
    pytest.param(source, id=f"{name}-{number}")
    for name in ("README.md", "docs/api.md", "docs/operator-api.md")
    for number, source in enumerate(blocks(text_of(name), "sh example"), 1)
]


#: Examples in other languages, each with the language that tests/language_examples.py runs.
PROGRAMS = [
    pytest.param(language, source, id=f"{name}-{kind}-{number}")
    for name in ("README.md",)
    for kind, language in (("js", "JavaScript"), ("python", "Python"))
    for number, source in enumerate(blocks(text_of(name), f"{kind} example"), 1)
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("language", "source"), PROGRAMS)
def test_programs_work_as_they_stand(system: System, language: str, source: str, tmp_path: Path) -> None:
    assert EXAMPLES_ADDRESS in source
    assert run_example(language, source.replace(EXAMPLES_ADDRESS, system.url), tmp_path)


def test_the_quick_start_has_a_page_and_a_program_in_each_language() -> None:
    assert len(blocks(text_of("README.md"), "html example")) == 1
    assert len(PROGRAMS) == 2


def test_both_pages_have_examples_and_no_shell_block_is_left_out() -> None:
    assert len(blocks(text_of("README.md"), "sh example")) >= 4
    assert len(blocks(text_of("docs/api.md"), "sh example")) >= 5
    for page in PAGES:
        for source in blocks(page.read_text("utf-8"), "sh"):
            assert "curl" not in source, f"{page.name} has an example that nobody runs: {source}"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("source", EXAMPLES)
def test_examples_work_as_they_stand(system: System, source: str, tmp_path: Path) -> None:
    assert EXAMPLES_ADDRESS in source
    output = run_shell(source.replace(EXAMPLES_ADDRESS, system.url), tmp_path)
    assert output or list(tmp_path.iterdir()), "the example does nothing"


PYTHON_EXAMPLES = [
    pytest.param(source, id=f"python-{number}")
    for number, source in enumerate(blocks(text_of("docs/python.md"), "python example"), 1)
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("source", PYTHON_EXAMPLES)
def test_examples_of_the_clients_work_as_they_stand(system: System, source: str, tmp_path: Path) -> None:
    assert EXAMPLES_ADDRESS in source
    program = source.replace(EXAMPLES_ADDRESS, system.url)
    # As a reader would: no address and key in the environment. Warnings are errors: nothing is left open.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAGON_")}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_clients_page_has_examples_and_names_every_verb() -> None:
    text = text_of("docs/python.md")
    assert len(PYTHON_EXAMPLES) >= 4
    assert not blocks(text, "python"), "an example that nobody runs"
    for verbs in (Dragon, Operator):
        for name in vars(verbs):
            assert name.startswith("_") or name == "close" or re.search(rf"`(?:\w+\(.*\)`, `)?{name}[`(]", text), name


def python_files(name: str) -> dict[str, str]:
    """The Python examples of a page by the path in their first line."""
    found = {}
    for source in blocks(text_of(name), "python"):
        path = re.match(r"# (\S+\.py)\n", source)
        assert path, f"an example without a path: {source[:50]}"
        found[path[1]] = source
    return found


@pytest.fixture
def with_examples(
    own_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], System]:
    """Starts a system that has the tasks of a page's examples beside its own."""

    def start(page: str) -> System:
        package = tmp_path / "examples_of_docs"
        package.mkdir()
        for path, source in python_files(page).items():
            if path.startswith("tasks/"):
                (package / Path(path).name).write_text(source)
        (package / "__init__.py").touch()
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        system = own_system(tasks__modules=("tests.sample_tasks", "examples_of_docs"))
        system.start_server()
        system.start_worker("--executors", "1")
        return system

    return start


async def test_the_tasks_and_the_test_of_the_guide_work_as_they_stand(
    with_examples: Callable[[str], System], tmp_path: Path
) -> None:
    system = with_examples("docs/adding-a-task.md")
    async with system.client() as client:
        tests = 0
        for path, source in python_files("docs/adding-a-task.md").items():
            if path.startswith("tests/"):
                tests += await run_tests(source, client)
        assert tests == 1
        text = await client.run("test.file", text="to be or not to be")
        sizes = await client.run("text.sizes", urls=[text["result"]["output"]] * 2)
        assert sizes["result"] == [18, 18]
        wrong = await client.run("text.words", url=text["result"]["output"], most=0)
        assert list(wrong["result"]["parameters"]) == ["most"]


async def run_tests(source: str, client: Client) -> int:
    namespace: dict[str, Any] = {}
    exec(compile(source, "docs/adding-a-task.md", "exec"), namespace)
    tests = [
        value for name, value in namespace.items() if name.startswith("test_") and inspect.iscoroutinefunction(value)
    ]
    for test in tests:
        await test(client)
    return len(tests)


async def test_a_wrong_result_would_fail_the_guides_test(
    with_examples: Callable[[str], System], tmp_path: Path
) -> None:
    system = with_examples("docs/adding-a-task.md")
    broken = python_files("docs/adding-a-task.md")["tests/tasks/test_text.py"].replace("== 6", "== 7")
    async with system.client() as client:
        with pytest.raises(AssertionError):
            await run_tests(broken, client)


async def test_the_task_of_the_readme_works_as_it_stands(with_examples: Callable[[str], System]) -> None:
    system = with_examples("README.md")
    async with system.client() as client:
        greet = {"task_name": "greet", "name": "you"}
        twice, once, wrong = await client.create(greet | {"times": 2}, greet, greet | {"times": 101}, block=True)
        assert (twice["result"], once["result"]) == (["Hello you", "Hello you"], ["Hello you"])
        assert list(wrong["result"]["parameters"]) == ["times"]


def test_the_guides_examples_import_only_what_tasks_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for path, source in (python_files("docs/adding-a-task.md") | python_files("README.md")).items():
        if path.startswith("tasks/"):
            assert set(re.findall(r"(?:from|import) (dragon[.\w]*)", source)) == {"dragon.task"}
            name = f"example_{Path(path).stem}"
            (tmp_path / f"{name}.py").write_text(source)
            module = importlib.import_module(name)
            del sys.modules[name]
            assert load_tasks((name,)).tasks, module
