"""`dragon account` and `dragon sign`: the file that they leave, what they print, how they fail."""

from __future__ import annotations

import re
import stat
import threading
import time
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dragon.auth import Accounts, Credentials, Limits, hash_key
from dragon.cli.account import account, sign
from dragon.config import ROOT
from dragon.errors import Unauthorized

SHIPPED = (ROOT / "conf" / "accounts.toml").read_text("utf-8")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "accounts.toml"
    path.write_text(SHIPPED, "utf-8")
    monkeypatch.setenv("DRAGON_ACCOUNTS", str(path))
    monkeypatch.delenv("DRAGON_SECRET", raising=False)
    return path


def run(command: click.Command, *arguments: str, **kwargs: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False, **kwargs)  # type: ignore[arg-type]


def dragon_account(*arguments: str) -> Result:
    return run(account, *arguments)


def succeeds(*arguments: str) -> str:
    result = dragon_account(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: str, code: int = 1) -> str:
    result = dragon_account(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    return result.stderr


def keys(output: str) -> tuple[str, str]:
    found = re.fullmatch(r"account     \S+\nsecret key  (\S{32})\napi key     (\S{32})\n", output)
    assert found is not None, output
    return found[1], found[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestNew:
    def test_the_keys_that_it_shows_work_and_only_their_hashes_are_kept(self, path: Path) -> None:
        secret, api_key = keys(succeeds("new", "shop", "--referrer", "shop.example"))
        accounts = Accounts(path)
        assert accounts.authenticate(Credentials(secret)).id == "shop"
        assert accounts.authenticate(Credentials(api_key=api_key, page="https://shop.example/")).id == "shop"
        assert secret != api_key
        text = path.read_text("utf-8")
        assert secret not in text
        assert api_key not in text

    def test_each_account_gets_keys_of_its_own(self, path: Path) -> None:
        shown = {*keys(succeeds("new", "a")), *keys(succeeds("new", "b"))}
        assert len(shown) == 4
        assert [found.id for found in Accounts(path)] == ["demo", "a", "b"]

    def test_every_option_ends_up_in_the_account(self, path: Path) -> None:
        options = "--referrer *.a.example --referrer https://münchen.example:8443 --keyless-images --tasks-queued 1"
        options += " --tasks-per-minute 2 --tasks-per-call 3 --bytes-stored 4 --streams 5 --operator"
        succeeds("new", "shop", *options.split())
        shop = Accounts(path).get("shop")
        assert shop is not None
        assert shop.limits == Limits(1, 2, 3, 4, 5)
        assert shop.keyless_images
        assert shop.operator
        assert not shop.loopback_only
        assert shop.whitelists("https://x.a.example/")
        assert shop.whitelists("https://xn--mnchen-3ya.example:8443/")
        assert len(shop.referrers) == 2

    def test_without_options_nothing_is_limited_and_the_missing_referrers_are_mentioned(self, path: Path) -> None:
        result = dragon_account("new", "shop")
        assert "The api key counts nowhere yet: add referrers to [shop]" in result.stderr
        shop = Accounts(path).get("shop")
        assert shop is not None
        assert (shop.limits, shop.referrers, shop.keyless_images, shop.operator) == (Limits(), (), False, False)

    def test_what_stood_in_the_file_stays_as_it_was_with_its_comments(self, path: Path) -> None:
        succeeds("new", "shop")
        assert path.read_text("utf-8").startswith(SHIPPED.rstrip() + "\n\n[shop]\n")
        assert list(path.parent.iterdir()) == [path]

    def test_the_first_account_makes_the_file_for_its_owner_only(self, path: Path) -> None:
        path.unlink()
        succeeds("new", "shop")
        assert list(tomllib.loads(path.read_text("utf-8"))) == ["shop"]
        assert mode(path) == 0o600

    @pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o600), (0o666, 0o600)])
    def test_a_file_that_everybody_may_read_becomes_the_owner_s_and_a_stricter_mode_stays(
        self, path: Path, before: int, after: int
    ) -> None:
        path.chmod(before)
        succeeds("new", "shop")
        assert mode(path) == after
        path.chmod(before)
        succeeds("revoke", "shop")
        assert mode(path) == after

    def test_a_link_to_the_file_stays_a_link(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        link = tmp_path / "link.toml"
        link.symlink_to(path)
        monkeypatch.setenv("DRAGON_ACCOUNTS", str(link))
        succeeds("new", "shop")
        assert link.is_symlink()
        assert Accounts(path).get("shop") is not None

    def test_accounts_made_at_the_same_time_are_all_there(self, path: Path) -> None:
        # In threads, for the lock is on a file descriptor of its own each time.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("click.echo", lambda *args, **kwargs: None)
            callback = account.commands["new"].callback
            assert callback is not None
            limits = dict.fromkeys(("tasks_queued", "tasks_per_minute", "tasks_per_call", "bytes_stored", "streams"))
            threads = [
                threading.Thread(target=callback, args=(f"a{i}", (), False, False), kwargs=limits, daemon=True)
                for i in range(20)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(40)
        assert {found.id for found in Accounts(path)} == {"demo", *(f"a{i}" for i in range(20))}

    @pytest.mark.parametrize("name", ["My Shop", "", "-", "_x", "Shop", "a.b", "a" * 42, "a]\n[b", "sh\u00f6p", "東京"])
    def test_a_name_that_cannot_be_one_is_refused_and_the_file_stays(self, path: Path, name: str) -> None:
        assert f"{name!r} cannot be an account's name" in fails("new", "--", name)
        assert path.read_text("utf-8") == SHIPPED

    def test_a_name_that_nearly_is_one_is_answered_with_one_that_is(self, path: Path) -> None:
        assert "as in my-shop" in fails("new", "My Shop!")

    def test_a_name_that_is_taken_is_refused_and_the_file_stays(self, path: Path) -> None:
        assert "there is an account 'demo' already" in fails("new", "demo")
        assert path.read_text("utf-8") == SHIPPED

    def test_a_malformed_referrer_is_refused_and_the_file_stays(self, path: Path) -> None:
        assert "--referrer 'https://a.example/x' names no pages" in fails(
            "new", "a", "--referrer", "https://a.example/x"
        )
        assert path.read_text("utf-8") == SHIPPED

    def test_a_negative_limit_is_a_usage_error(self, path: Path) -> None:
        assert "--tasks-queued" in fails("new", "a", "--tasks-queued", "-1", code=2)

    @pytest.mark.parametrize("arguments", [("new", "a"), ("revoke", "a"), ("list",)])
    def test_a_broken_file_or_setting_is_exit_code_78(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
    ) -> None:
        path.write_text("[broken", "utf-8")
        assert "is not valid TOML" in fails(*arguments, code=78)
        path.write_bytes(b"\xff")
        assert "is not UTF-8" in fails(*arguments, code=78)
        monkeypatch.setenv("DRAGON_SERVER__HOTS", "x")
        assert "server.hots" in fails(*arguments, code=78)

    def test_a_failure_to_write_leaves_the_file_and_no_debris(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert "No space left on device" in fails("new", "shop")
        assert path.read_text("utf-8") == SHIPPED
        assert list(path.parent.iterdir()) == [path]


class TestList:
    def test_it_shows_each_account_with_its_pages_and_limits_and_no_keys(self, path: Path) -> None:
        arguments = ["--referrer", "*.a.example:80", "--referrer", "http://b.example", "--tasks-queued", "0"]
        shown = keys(succeeds("new", "shop", *arguments))
        output = succeeds("list")
        assert output == (
            "demo             1 secret, 1 api; pages localhost 127.0.0.1; keyless images; loopback only; operator\n"
            "shop             1 secret, 1 api; pages *.a.example:80 http://b.example; tasks_queued 0\n"
        )
        assert not any(key in output or hash_key(key) in output for key in shown)

    def test_an_empty_file_is_answered_with_what_to_do(self, path: Path) -> None:
        path.write_text("# nothing yet\n", "utf-8")
        result = dragon_account("list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "dragon account new NAME" in result.stderr

    def test_a_missing_file_is_exit_code_78(self, path: Path) -> None:
        path.unlink()
        assert "No such file" in fails("list", code=78)


class TestRevoke:
    def test_the_demo_account_goes_and_the_commented_example_stays(self, path: Path) -> None:
        assert succeeds("revoke", "demo").startswith("revoked demo")
        text = path.read_text("utf-8")
        head, _, rest = SHIPPED.partition("# The demo account:")
        assert text == head + rest[rest.index("# An account with everything") :]
        assert tomllib.loads(text) == {}

    def test_new_and_then_revoke_leaves_the_file_as_it_was(self, path: Path) -> None:
        succeeds("new", "shop")
        succeeds("revoke", "shop")
        assert path.read_text("utf-8").rstrip() == SHIPPED.rstrip()

    def test_the_keys_of_a_revoked_account_stop_working(self, path: Path) -> None:
        secret, _ = keys(succeeds("new", "shop"))
        accounts = Accounts(path)
        succeeds("revoke", "shop")
        accounts.refresh()
        with pytest.raises(Unauthorized):
            accounts.authenticate(Credentials(secret))

    def test_comments_that_touch_a_neighbour_stay_with_it(self, path: Path) -> None:
        before = (
            "# the head\n\n# about a\n[a]\nname = 'a'\n# a's end\n\n"
            "# apart\n\n# about b\n[ \"b\" ] # b\nname = 'b'\n\n# in b\nlimits.tasks_queued = 1\n"
            "# about c\n[c.limits]\ntasks_queued = 2\n\n[c]\nname = 'c'\n"
        )
        for name, expected in (
            ("a", before.replace("# about a\n[a]\nname = 'a'\n# a's end\n\n", "")),
            ("b", before[: before.index("# about b")] + before[before.index("# about c") :]),
            ("c", before[: before.index("# about c")]),
        ):
            path.write_text(before, "utf-8")
            succeeds("revoke", name)
            assert path.read_text("utf-8") == expected

    def test_text_that_only_looks_like_a_table_is_left_alone(self, path: Path) -> None:
        before = "[a]\nname = '''\n[b]\n'''\n"
        path.write_text(before, "utf-8")
        assert "there is no account 'b' (there are: a)" in fails("revoke", "b")
        assert "edit it by hand" in fails("revoke", "a", code=78)
        assert path.read_text("utf-8") == before

    @pytest.mark.parametrize(
        "text",
        [
            "a.name = 'x'\n[b]\n",
            "a = {name = 'x'}\n",
            "[b]\nname = '''\n[a]\n[c]\n'''\n[a]\n",
            "[a]\nname = '''\n[b]\n'''\n[b]\n",
            '["\\u0061"]\n',
        ],
    )
    def test_a_file_that_lines_do_not_explain_is_not_touched(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        assert Accounts(path).get("a") is not None
        assert "edit it by hand" in fails("revoke", "a", code=78)
        assert path.read_text("utf-8") == text

    def test_an_unknown_name_is_refused_and_the_known_ones_are_named(self, path: Path) -> None:
        assert "there is no account 'dmeo' (there are: demo)" in fails("revoke", "dmeo")
        assert path.read_text("utf-8") == SHIPPED


class TestSign:
    URL = "/v1/create_file/cat.jpg?task_name=image.thumb"

    @pytest.mark.parametrize(
        ("span", "seconds"),
        [
            ((), 604800),
            (("--expires", "90"), 90),
            (("--expires", "90s"), 90),
            (("--expires", "15m"), 900),
            (("--expires", "12h"), 43200),
            (("--expires", "1d"), 86400),
            (("--expires", "2w"), 1209600),
        ],
    )
    def test_what_it_prints_is_accepted_until_the_span_is_over(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, span: tuple[str, ...], seconds: int
    ) -> None:
        monkeypatch.setenv("DRAGON_SECRET", "123456")
        started = int(time.time())
        result = run(sign, self.URL, "--account", "demo", *span)
        assert (result.exit_code, result.stderr) == (0, "")
        pairs = [tuple(part.split("=")) for part in result.stdout.strip().partition("?")[2].split("&")]
        query = [(name, value) for name, value in pairs]
        assert started + seconds <= int(dict(query)["exp"]) <= time.time() + seconds
        assert Accounts(path).verify_signature("create_file", "cat.jpg", query).id == "demo"
        with pytest.raises(Unauthorized):
            Accounts(path).verify_signature("create_file", "cat.jpg", query, now=started + seconds + 60)

    def test_the_secret_is_asked_for_without_showing_it_when_the_environment_has_none(self, path: Path) -> None:
        result = run(sign, self.URL, "--account", "demo", input="123456\n")
        assert result.exit_code == 0
        assert result.stdout.startswith(self.URL + "&account=demo&exp=")
        assert result.stdout.count("\n") == 1
        assert "Secret key: " in result.stderr
        assert "123456" not in result.output.replace(self.URL, "")

    def test_the_secret_cannot_be_an_argument(self) -> None:
        assert {parameter.name for parameter in sign.params} == {"url", "account_id", "expires"}

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("/v1/create", "--account", "demo"), "only /v1/create_file and /v1/file"),
            (("/v1/file?secret=123456", "--account", "demo"), "there is a key in it"),
            (("/v1/file", "--account", "My Shop"), "not an account's id"),
            (("/v1/file", "--account", "demo", "--expires", "0"), "not a span of time"),
            (("/v1/file", "--account", "demo", "--expires", "-1d"), "not a span of time"),
            (("/v1/file", "--account", "demo", "--expires", "7y"), "not a span of time"),
            (("/v1/file", "--account", "demo", "--expires", "1.5d"), "not a span of time"),
        ],
    )
    def test_what_cannot_be_signed_is_refused_with_the_reason(
        self, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
    ) -> None:
        monkeypatch.setenv("DRAGON_SECRET", "the-secret")
        result = run(sign, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr
        assert "123456" not in result.stderr
