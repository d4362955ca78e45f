"""`dragon run`: in a pipe, on a terminal, exit codes, files, Ctrl-C; against a real server and worker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.commands import dragon, terminal
from tests.system import Client, System, free_port

KEY = r"[A-Z2-7]{26}"
#: What is said of the first key's task when it waits for longer than a second, as on a busy machine.
PLACES = r"(?:\1 queued    number \d+ in the queue(?:, about .+)?\n)*"


def last_lines(output: str) -> list[str]:
    """The lines without their keys."""
    return [re.sub(rf"^{KEY} ", "", line) for line in output.splitlines()]


class TestInAPipe:
    def test_statuses_are_plain_lines(self, system: System) -> None:
        code, output, errors = dragon(system.url, "run", "countdown", "from=2", "delay=0.1")
        assert (code, errors) == (0, "")
        assert re.fullmatch(
            rf"({KEY}) queued    countdown from=2 delay=0\.1\n{PLACES}"
            r"(\1 executing( 50 %| 100 %)?\n)*\1 success   \[2, 1\]\n",
            output,
        )
        assert "\x1b" not in output

    def test_json_gives_a_line_of_json_a_status_and_the_last_one_is_final(self, system: System) -> None:
        code, output, _ = dragon(system.url, "run", "countdown", "from=3", "delay=0.1", "--json")
        statuses = [json.loads(line) for line in output.splitlines()]
        assert code == 0
        words = [status["status"] for status in statuses]
        assert words[0] == "queued"
        assert words.count("success") == 1
        assert {*words} <= {"queued", "executing", "success"}
        assert len({status["key"] for status in statuses}) == 1
        assert statuses[-1]["result"] == [3, 2, 1]

    def test_values_are_converted_by_the_schema(self, system: System) -> None:
        words = ["text=5", "number=5", "ratio=1", "flag=yes", "words=a", "words=b", "key=null"]
        code, output, _ = dragon(system.url, "run", "test.echo", *words, "--json")
        assert code == 0
        result = json.loads(output.splitlines()[-1])["result"]
        expected = {"text": "5", "number": 5, "ratio": 1, "flag": True, "words": ["a", "b"], "key": "null"}
        assert {name: result[name] for name in expected} == expected

    def test_a_failed_task_is_exit_code_1_and_says_why(self, system: System) -> None:
        code, output, _ = dragon(system.url, "run", "test.task_error", "message=the disk is full")
        assert code == 1
        assert last_lines(output)[-1] == "error     the disk is full"

    def test_a_parameter_that_only_the_server_refuses_is_exit_code_1(self, system: System) -> None:
        code, output, _ = dragon(system.url, "run", "countdown", "from=5000")
        assert code == 1
        assert last_lines(output) == ["error     from: input should be less than or equal to 1000"]

    def test_several_tasks_run_together(self, system: System) -> None:
        code, output, _ = dragon(system.url, "run", "hello", "name=a", "--", "test.task_error", "--", "hello", "name=b")
        assert code == 1
        lines = last_lines(output)
        assert {"success   Hello a", "success   Hello b", "error     meant for the client"} <= set(lines)
        assert len({line[:26] for line in output.splitlines()}) == 3

    def test_each_runs_a_task_for_every_line(self, system: System) -> None:
        names = "".join(f"name {number}\n" for number in range(30)) + "@twitter\n"
        code, output, _ = dragon(system.url, "run", "hello", "--each", "name=@-", "--at-once", "7", given=names)
        assert code == 0
        done = {line for line in last_lines(output) if line.startswith("success")}
        assert done == {f"success   Hello name {number}" for number in range(30)} | {"success   Hello @twitter"}

    def test_what_a_task_says_cannot_move_the_cursor(self, system: System) -> None:
        code, output, _ = dragon(system.url, "run", "hello", "name=\x1b[2Jgone\nnext\u202e")
        assert code == 0
        assert last_lines(output)[-1] == r"success   Hello \x1b[2Jgone\x0anext\x202e"


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["helo"], "this server has no task 'helo': did you mean 'hello'?"),
            (["hello", "nam=x"], "hello has no parameter 'nam': did you mean 'name'?"),
            (["hello", "x"], "'x' is no parameter: write name=value; hello takes name (`dragon tasks hello`)"),
            (["countdown", "from=x"], "from must be a whole number, and 'x' is not"),
            (["image.thumb"], "image.thumb needs url=..."),
            (["hello", "--url"], "--url: hello has no output file"),
            (["hello", "--file", "x"], "--file: hello has no output file"),
            (
                ["test.two_files", "--file", "x"],
                "--file x: test.two_files has several output files, write NAME=PATH (small, large)",
            ),
            (
                ["test.file", "--file", "x", "--", "test.file"],
                "--file x: for several tasks give a folder, as --file x/",
            ),
            (["hello", "--"], "-- stands between two tasks: write a task's name on each side of it"),
            (["hello", "--", "--json"], "-- stands between two tasks: write a task's name on each side of it"),
            (["--", "hello"], "-- stands between two tasks: write a task's name on each side of it"),
            (["hello", "--each", "name=@x", "--", "hello"], "--each is for one task: leave out what follows --"),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
    )
    def test_what_is_wrong_with_a_call_is_exit_code_2(
        self, system: System, arguments: list[str], sentence: str
    ) -> None:
        code, output, errors = dragon(system.url, "run", *arguments)
        assert (code, output) == (2, "")
        assert errors.splitlines()[-1] == f"Error: {sentence}"

    def test_no_server_is_exit_code_69_and_says_how_to_start_one(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        code, output, errors = dragon(url, "run", "hello")
        assert (code, output) == (69, "")
        assert errors == (
            f"Error: cannot reach {url}: Connection refused: start it with `dragon up`, or set DRAGON_URL to where it "
            "is\n"
        )

    def test_a_wrong_key_is_exit_code_77_and_is_not_repeated(self, system: System) -> None:
        code, output, errors = dragon(system.url, "run", "hello", environ={"DRAGON_SECRET": "a-wrong-key"})
        assert (code, output) == (77, "")
        assert errors == (
            f"Error: unknown secret key: set DRAGON_SECRET (or --secret-file) to a secret key of {system.url}\n"
        )

    def test_on_this_machine_the_demo_account_is_tried_and_that_is_said(self, system: System) -> None:
        code, output, errors = dragon(system.url, "run", "hello", environ={"DRAGON_SECRET": ""})
        assert (code, last_lines(output)[-1]) == (0, "success   Hello World")
        assert errors == (
            "dragon: no DRAGON_SECRET is set: trying the demo account's key, which works on this machine only\n"
        )

    def test_elsewhere_a_key_is_asked_for(self) -> None:
        code, _, errors = dragon("http://192.0.2.1", "run", "hello", environ={"DRAGON_SECRET": ""})
        assert code == 2
        assert errors.splitlines()[-1] == (
            "Error: this needs a secret key: set DRAGON_SECRET, or give --secret-file FILE"
        )

    def test_the_key_can_come_from_a_file(self, system: System, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("123456\n")
        assert dragon(system.url, "run", "hello", "--secret-file", str(path), environ={"DRAGON_SECRET": "x"}).code == 0
        path.write_text("")
        code, _, errors = dragon(system.url, "run", "hello", "--secret-file", str(path))
        assert code == 2
        assert errors.splitlines()[-1].endswith("is empty: it is to hold the secret key")

    def test_the_server_can_be_given_as_an_option(self, system: System) -> None:
        address = system.url.removeprefix("http://")
        assert dragon("http://127.0.0.1:1", "run", "hello", "--server", address).code == 0


class TestFiles:
    def test_an_output_file_is_saved(self, system: System, tmp_path: Path) -> None:
        code, _, errors = dragon(system.url, "run", "test.file", "text=abc", "--file", str(tmp_path / "out" / "a.txt"))
        assert code == 0
        assert (tmp_path / "out" / "a.txt").read_text() == "abc"
        assert errors == f"dragon: saved {tmp_path}/out/a.txt (3 bytes)\n"

    def test_into_a_folder_it_keeps_its_own_name(self, system: System, tmp_path: Path) -> None:
        assert dragon(system.url, "run", "test.file", "text=abc", "--file", str(tmp_path)).code == 0
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"output.txt": "abc"}

    def test_files_of_several_tasks_are_numbered(self, system: System, tmp_path: Path) -> None:
        (tmp_path / "texts").write_text("one\ntwo\n")
        out = tmp_path / "out"
        each = f"text=@{tmp_path}/texts"
        assert dragon(system.url, "run", "test.file", "--each", each, "--file", f"{out}/").code == 0
        assert {path.name: path.read_text() for path in out.iterdir()} == {"1-output.txt": "one", "2-output.txt": "two"}

    def test_one_of_several_files_is_named(self, system: System, tmp_path: Path) -> None:
        code, _, _ = dragon(system.url, "run", "test.two_files", "--file", f"small={tmp_path}/s")
        assert code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["s"]

    def test_standard_output_has_the_file_and_nothing_else(self, system: System) -> None:
        assert dragon(system.url, "run", "test.file", "text=abc", "--file", "-") == (0, "abc", "")

    def test_url_prints_the_url_and_nothing_else(self, system: System) -> None:
        code, output, errors = dragon(system.url, "run", "test.file", "--url")
        assert (code, errors) == (0, "")
        assert re.fullmatch(rf"{re.escape(system.url)}/files/{KEY}/output\.txt\n", output)

    def test_with_url_a_failure_is_told_beside_the_output(self, system: System) -> None:
        code, output, errors = dragon(system.url, "run", "test.forgets_file", "--url")
        assert (code, output) == (1, "")
        assert errors.startswith("dragon: test.forgets_file: ")

    def test_a_file_that_cannot_be_written_is_said(self, system: System, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        code, _, errors = dragon(system.url, "run", "test.file", "--file", f"{tmp_path}/a/b")
        assert code == 1
        assert errors.startswith(f"Error: {tmp_path}/a/b cannot be written: ")


class TestOnATerminal:
    def test_a_bar_is_seen_and_ends_at_100_percent_with_the_result_below(self, system: System) -> None:
        with terminal(system.url, "run", "countdown", "from=4", "delay=1.5") as shown:
            shown.wait_for(" %")
            assert re.search("(25|50|75) %", shown.plain), shown.plain
            assert "━" in shown.plain
            assert b"\x1b[?25l" in shown.raw, "the cursor is hidden while bars move"
            assert shown.finish() == 0
        assert b"\x1b[?25h" in shown.raw, "and comes back"
        *_, last = [line for line in re.split(r"[\r\n]+", shown.plain) if "countdown from=4" in line]
        assert re.search(r"━{24} 100 %", last), last
        assert shown.plain.rstrip().endswith("[\n  4,\n  3,\n  2,\n  1\n]")

    def test_several_tasks_have_a_bar_each(self, system: System) -> None:
        with terminal(
            system.url, "run", "countdown", "from=2", "--", "hello", "name=x", "--", "test.task_error"
        ) as shown:
            assert shown.finish() == 1
        final = shown.plain[shown.plain.rindex("countdown from=2 ") :]
        assert re.search(r"countdown from=2 +━{24} +100 %", final), final
        assert re.search(r"hello name=x +━{24} +100 %", final), final
        assert re.search(r"test\.task_error +failed: meant for the client", final), final
        assert shown.plain.rstrip().splitlines()[-3:] == [
            "countdown from=2: [2, 1]",
            "hello name=x: Hello x",
            "test.task_error: meant for the client",
        ]

    def test_more_tasks_than_rows_have_one_bar_together(self, system: System, tmp_path: Path) -> None:
        (tmp_path / "names").write_text("".join(f"{number}\n" for number in range(60)))
        with terminal(system.url, "run", "hello", "--each", f"name=@{tmp_path}/names", rows=10) as shown:
            assert shown.finish() == 0
        assert re.search(r"all +━{24} 60 done", shown.plain), shown.plain[-1500:]

    def test_what_a_task_says_cannot_move_the_cursor(self, system: System) -> None:
        with terminal(system.url, "run", "hello", "name=\x1b[5mblink") as shown:
            assert shown.finish() == 0
        assert b"\x1b[5m" not in shown.raw
        assert r"Hello \x1b[5mblink" in shown.plain

    def test_json_is_json_on_a_terminal_too(self, system: System) -> None:
        with terminal(system.url, "run", "hello", "--json") as shown:
            assert shown.finish() == 0
        assert [json.loads(line)["key"] for line in shown.plain.splitlines()]


class TestCtrlC:
    async def test_it_asks_and_without_a_yes_the_task_goes_on(self, system: System, client: Client) -> None:
        with terminal(system.url, "run", "countdown", "from=500", "delay=0.1") as shown:
            shown.wait_for(" %")
            shown.interrupt()
            shown.wait_for("1 task has not ended. Cancel? [y/N]:")
            shown.type("\n")
            assert shown.finish() == 130
        key = re.search(rf"1 task has not ended, and goes on: dragon follow ({KEY})", shown.plain)
        assert key, shown.plain[-500:]
        (status,) = await client.status(key[1])
        assert status["status"] == "executing"
        assert dragon(system.url, "cancel", key[1]).code == 0

    async def test_with_a_yes_it_is_cancelled(self, system: System, client: Client) -> None:
        with terminal(system.url, "run", "countdown", "from=500", "delay=0.1") as shown:
            shown.wait_for(" %")
            shown.interrupt()
            shown.wait_for("Cancel? [y/N]:")
            shown.type("y\n")
            assert shown.finish() == 130
        key = re.search(rf"dragon: cancelled: ({KEY})", shown.plain)
        assert key, shown.plain[-500:]
        (status,) = await client.status(key[1])
        assert (status["status"], status["result"]) == ("error", "cancelled")

    async def test_a_second_one_means_no(self, system: System, client: Client) -> None:
        with terminal(system.url, "run", "countdown", "from=500", "delay=0.1") as shown:
            shown.wait_for(" %")
            shown.interrupt()
            shown.wait_for("Cancel? [y/N]:")
            shown.interrupt()
            while not shown.shows("goes on", 8):  # one that comes before Python waits for the answer is not heard
                shown.interrupt()
            assert shown.finish() == 130
        key = re.search(rf"goes on: dragon follow ({KEY})", shown.plain)
        assert key, shown.plain[-500:]
        assert dragon(system.url, "cancel", key[1]).code == 0

    async def test_it_can_cancel_without_a_question(self, system: System, client: Client) -> None:
        with terminal(system.url, "run", "countdown", "from=500", "delay=0.1", "--cancel-on-interrupt") as shown:
            shown.wait_for(" %")
            shown.interrupt()
            assert shown.finish() == 130
        key = re.search(rf"dragon: cancelled: ({KEY})", shown.plain)
        assert key, shown.plain[-500:]
        (status,) = await client.status(key[1])
        assert status["result"] == "cancelled"
        assert "Cancel?" not in shown.plain
