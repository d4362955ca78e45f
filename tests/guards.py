"""Each guard that a guarantee rests on, with the test that fails without it; `make guards` takes them out, one by one.

`python -m tests.guards [WORD ...]` copies the checkout, breaks one guard at a time in the copy and runs its test, which
must fail; without the change it must pass. A word chooses the guards that have it in their name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from dragon.config import ROOT


class Guard(NamedTuple):
    """A piece of code, what takes its place, and the test that must notice."""

    name: str
    file: str
    present: str  # stands in the file once
    instead: str
    test: str  # as pytest names it


_SHARED = "dragon/store/scripts/_shared.lua"
_SCRIPTS = "tests/store/test_scripts.py"

GUARDS = [
    Guard(
        "a PDF is downloaded, not opened",
        "dragon/server/outputs.py",
        'if kind == "application/pdf":',
        'if kind == "":',
        "tests/attack/test_outputs.py::test_a_pdf_runs_none_of_its_scripts_however_long_its_viewer_takes",
    ),
    Guard(
        "a worker that cannot write any more leaves",
        "dragon/worker/main.py",
        "self._until_stopped([*loops, writing])",
        "self._until_stopped(loops)",
        "tests/worker/test_leaving.py::test_a_worker_whose_writing_has_failed_leaves_instead_of_keeping_its_tasks",
    ),
    Guard(
        "an error of who hears of a write does not end the writing",
        "dragon/worker/writer.py",
        "except Exception:  # an error of ours",
        "except OSError:  # an error of ours",
        "tests/worker/test_writer.py::test_an_error_of_who_hears_of_a_write_does_not_stop_the_writing",
    ),
    Guard(
        "the fence: a status of another owner or attempt is refused",
        _SHARED,
        "return task and task.owner == owner and task.attempt == attempt",
        "return task",
        f"{_SCRIPTS}::test_a_status_of_another_attempt_or_owner_is_refused",
    ),
    Guard(
        "accounts take turns",
        "dragon/store/scripts/reserve.lua",
        "redis.call('RPUSH', turns, account)",
        "redis.call('LPUSH', turns, account)",
        "tests/store/test_fairness.py::test_accounts_take_turns_however_much_one_of_them_sends",
    ),
    Guard(
        "the own list of a queue is empty only when nothing waits",
        "dragon/store/scripts/claim.lua",
        "leave_lane(task.queue, task.account)",
        "",
        "tests/store/test_fairness.py::test_random_handling_leaves_each_task_in_one_list",
    ),
    Guard(
        "limits are exact although requests share a script run",
        "dragon/store/scripts/create.lua",
        "local present = tonumber(usage[1] or 0) + (queued[account] or 0)",
        "local present = tonumber(usage[1] or 0)",
        f"{_SCRIPTS}::test_limits_hold_exactly_when_many_create_at_once",
    ),
    Guard(
        "a final status never changes",
        "dragon/store/scripts/update.lua",
        "if task.final then return 0 end",
        "",
        f"{_SCRIPTS}::test_a_final_status_never_changes_and_its_repetition_is_accepted",
    ),
    Guard(
        "an account that is no operator sees its own tasks only",
        "dragon/overview.py",
        'return "" if account.operator else account.id',
        'return ""',
        "tests/server/test_operator.py::test_an_account_that_is_no_operator_sees_its_own_numbers_only",
    ),
    Guard(
        "an account that is no operator finds its own tasks only",
        "dragon/operator.py",
        "return filters if account.operator else filters._replace(account=account.id)",
        "return filters",
        "tests/server/test_operator.py::test_an_account_that_is_no_operator_sees_its_own_tasks_whatever_it_asks_for",
    ),
    Guard(
        "an account that is no operator acts on its own tasks only",
        "dragon/operator.py",
        "return account.operator or record.account == account.id",
        "return True",
        "tests/server/test_operator.py::test_cancelling_many_answers_with_their_statuses_in_order",
    ),
    Guard(
        "a task is retried once",
        "dragon/operator.py",
        'idempotency_key=f"retry\\n{key}"',
        'idempotency_key=""',
        "tests/server/test_operator.py::test_a_retry_whose_answer_and_note_were_lost_finds_its_task",
    ),
    Guard(
        "a worker does not spin at what waits in a paused queue",
        "dragon/worker/main.py",
        "if queue in self._paused:",
        "if False:",
        "tests/server/test_operator_queues.py::test_a_paused_queue_waits_without_a_spinning_worker_and_goes_on_at_once",
    ),
    Guard(
        "what was answered with 503 is not created later",
        "dragon/store/scripts/create.lua",
        "if is_late then return {'late'} end",
        "",
        f"{_SCRIPTS}::test_a_redis_that_hung_does_not_create_what_was_answered_with_503",
    ),
    Guard(
        "a worker whose lease is over gets nothing",
        "dragon/store/scripts/reserve.lua",
        "if not redis.call('ZSCORE', WORKERS, worker) then return {'gone', '', ''} end",
        "",
        f"{_SCRIPTS}::test_a_worker_whose_lease_is_over_gets_nothing_until_it_registers_again",
    ),
    Guard(
        "a task that was taken away unheard is stopped",
        "dragon/worker/engine.py",
        "if running.missed >= MISSED_LOOKS:",
        "if False:",
        "tests/worker/test_executors.py::test_a_task_that_was_taken_away_unheard_is_stopped",
    ),
    Guard(
        "a task that was reserved unheard goes back",
        "dragon/worker/engine.py",
        "        if strays:",
        "        if False:",
        "tests/worker/test_executors.py::test_a_task_that_was_reserved_unheard_goes_back_and_runs",
    ),
    Guard(
        "a task ends at its timeout",
        "dragon/worker/engine.py",
        "now - running.started > running.facts.timeout:",
        "now - running.started > 1e9:",
        "tests/worker/test_outcomes.py::test_a_task_that_never_ends_is_stopped_at_its_timeout",
    ),
    Guard(
        "after a cut all followed keys are read again",
        "dragon/feed.py",
        "                if message is None:\n                    await self._read_again()",
        "                if message is None:\n                    pass",
        "tests/test_feed.py::test_after_the_subscription_was_cut_all_keys_are_read_again",
    ),
    Guard(
        "what messages missed is read every ten seconds",
        "dragon/feed.py",
        "            await asyncio.sleep(RECONCILE)\n            await self._read_again()",
        "            await asyncio.sleep(RECONCILE)",
        "tests/test_feed.py::test_reconciliation_happens_by_itself",
    ),
    Guard(
        "measurements whose reply was lost count once",
        "dragon/store/scripts/measure.lua",
        "if tonumber(redis.call('GET', flushed) or 0) >= tonumber(ARGV[2]) then return 0 end",
        "",
        "tests/store/test_measures.py::test_replies_that_are_lost_count_nothing_twice_and_lose_nothing",
    ),
    Guard(
        "a place in the queue follows nothing that is stored",
        "dragon/feed.py",
        "if self.is_waiting(key) and key not in self._pending:",
        "if True:",
        "tests/test_positions.py::test_a_hint_never_follows_or_replaces_what_is_stored",
    ),
    Guard(
        "a place is put away when its task gets a newer line",
        "dragon/feed.py",
        "            self._hints.pop(line.key, None)",
        "            pass",
        "tests/test_positions.py::test_a_hint_never_follows_or_replaces_what_is_stored",
    ),
    Guard(
        "log lines of another owner or attempt are refused",
        "dragon/store/scripts/log.lua",
        "if present == attempt and has == owner then return phase, feeds end",
        "return phase, feeds",
        "tests/store/test_logs.py::test_lines_of_another_owner_or_attempt_are_refused",
    ),
    Guard(
        "log lines that are sent again are there once",
        "dragon/store/scripts/log.lua",
        "if string.sub(ARGV[i], 1, 9) ~= string.sub(mark, 1, 9) or ARGV[i] > mark then",
        "if true then",
        "tests/worker/test_writer.py::test_lines_and_the_end_are_written_once_when_a_command_or_its_reply_is_lost",
    ),
    Guard(
        "an ended task's log is whole",
        "dragon/worker/writer.py",
        "                if said := self._log.take():\n",
        "                if (said := self._log.take()) and not batch:\n",
        "tests/worker/test_writer.py::test_what_a_task_says_and_its_end_come_while_lines_are_written_and_still_in_their_order",
    ),
    Guard(
        "a task that goes back leaves no log lines behind",
        "dragon/worker/engine.py",
        "        reserved = running.reserved\n        await self.writer.log_written()\n",
        "        reserved = running.reserved\n",
        "tests/server/test_log.py::test_lines_of_an_attempt_that_crashed_stay",
    ),
    Guard(
        "after a cut followed logs are read again",
        "dragon/feed.py",
        "                        self._ring(key)\n",
        "                        pass\n",
        "tests/server/test_log.py::test_after_the_subscription_was_cut_a_log_is_read_again",
    ),
    Guard(
        "bells that are lost are made up for",
        "dragon/log_follower.py",
        "min(left, until_look)",
        "left",
        "tests/server/test_log.py::test_a_bell_that_is_lost_is_made_up_for",
    ),
    Guard(
        "a chatty task loses lines instead of costing others something",
        "dragon/worker/log_lines.py",
        "while self._kept and self._lines >= 1 and self._bytes > 0:",
        "while self._kept:",
        "tests/worker/test_log_lines.py::test_of_a_flood_the_first_and_the_newest_lines_come_and_how_many_were_dropped",
    ),
    Guard(
        "downloads connect to public addresses only",
        "dragon/fetch.py",
        "if not self._may_reach(str(address[0])):",
        "if False:",
        "tests/test_fetch.py::test_no_spelling_of_a_private_address_is_connected_to",
    ),
    Guard(
        "executors do not inherit Redis's credentials",
        "dragon/worker/pool.py",
        "env=safe_environment(os.environ)",
        "env=dict(os.environ)",
        "tests/worker/test_executors.py::test_executors_hold_no_credentials",
    ),
]


def _run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", test]
    environ = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=900, check=False)


def _try(folder: Path, guard: Guard) -> str:
    """What is wrong with a guard, '' when its test passes with it and fails without."""
    whole = _run(folder, guard.test)
    if whole.returncode != 0:
        return f"its test does not pass:\n{whole.stdout[-2000:]}"
    file = folder / guard.file
    text = file.read_text("utf-8")
    file.write_text(text.replace(guard.present, guard.instead), "utf-8")
    try:
        broken = _run(folder, guard.test)
    finally:
        file.write_text(text, "utf-8")
    if broken.returncode != 1:  # 1: tests failed; anything else: they did not run
        return f"its test ends with {broken.returncode} without it:\n{broken.stdout[-2000:]}"
    return ""


def main(words: list[str]) -> int:
    """Tries the guards; returns how many are not guarded."""
    failed = 0
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="dragon-guards-") as temporary:
        folder = Path(temporary) / "dragon"
        ignored = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, folder, ignore=ignored)
        for guard in chosen:
            problem = _try(folder, guard)
            failed += bool(problem)
            print(
                f"{'NOT GUARDED' if problem else 'guarded'}  {guard.name}{': ' + problem if problem else ''}",
                flush=True,
            )
    print(f"{len(chosen) - failed} of {len(chosen)} guards have a test that fails without them")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
