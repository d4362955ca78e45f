"""Loading the settings: what wins, what stops the start, and that the shipped file names every one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dragon.config import ROOT, Config, load_config, settings
from dragon.errors import ConfigError

SHIPPED = ROOT / "conf" / "dragon.toml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dragon.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert load_config(SHIPPED, {}) == Config()


def test_the_shipped_file_names_every_setting() -> None:
    named = []
    for name, value in tomllib.loads(SHIPPED.read_text("utf-8")).items():
        named += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    assert named == list(settings())


def test_every_setting_of_the_shipped_file_has_a_sentence_above_it() -> None:
    lines = SHIPPED.read_text("utf-8").splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if " = " in line and not line.startswith("#") and not (above.startswith("# ") and above.endswith("."))
    ]
    assert bare == []


def test_the_file_wins_over_the_defaults_and_the_environment_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nprocesses = 2\n")
    config = load_config(path, {"DRAGON_SERVER__PORT": "3"})
    assert (config.server.port, config.server.processes, config.server.host) == (3, 2, "127.0.0.1")


def test_what_the_caller_says_wins_over_all_and_none_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\n")
    environ = {"DRAGON_SERVER__PORT": "3", "HOST": "::1"}
    config = load_config(path, environ, server__port=0, server__host=None)
    assert (config.server.port, config.server.host) == (0, "::1")


@pytest.mark.parametrize(
    ("environ", "setting", "value"),
    [
        ({"PORT": "81"}, "port", 81),
        ({"PORT": "81", "DRAGON_SERVER__PORT": "82"}, "port", 82),
        ({"PORT": ""}, "port", 8000),
        ({"HOST": "0.0.0.0"}, "host", "0.0.0.0"),
    ],
)
def test_the_short_names_of_the_server_are_understood(
    environ: dict[str, str], setting: str, value: object, tmp_path: Path
) -> None:
    assert getattr(load_config(write(tmp_path, ""), environ).server, setting) == value


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"REDIS_URL": "redis://a"}, "redis://a"),
        ({"REDIS_URL": "redis://a", "DRAGON_REDIS_URL": "redis://b"}, "redis://b"),
        ({"DRAGON_REDIS_URL": "redis://b", "DRAGON_REDIS__URL": "redis://c"}, "redis://c"),
    ],
)
def test_the_redis_url_has_three_names(environ: dict[str, str], url: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), environ).redis.url == url


def test_a_list_in_the_environment_is_separated_by_commas(tmp_path: Path) -> None:
    environ = {"DRAGON_FETCH__ALLOW": "127.0.0.0/8, media.internal,", "DRAGON_WORKER__QUEUES": "one"}
    config = load_config(write(tmp_path, ""), environ)
    assert config.fetch.allow == ("127.0.0.0/8", "media.internal")
    assert config.worker.queues == ("one",)


def test_a_queue_is_named_in_plain_characters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker\.queues"):
        load_config(write(tmp_path, ""), {"DRAGON_WORKER__QUEUES": "default@shop"})


def test_a_secret_is_read_from_a_file_and_wins(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://:pw@host\n")
    environ = {"DRAGON_REDIS__URL_FILE": str(secret), "DRAGON_REDIS__URL": "redis://other"}
    assert load_config(write(tmp_path, ""), environ).redis.url == "redis://:pw@host"


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DRAGON_REDIS__URL_FILE.*/nowhere: No such file"):
        load_config(write(tmp_path, ""), {"DRAGON_REDIS__URL_FILE": "/nowhere"})


def test_a_misspelt_setting_in_the_file_is_named_with_its_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nprot = 1\n[redsi]\nurl = ''\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, {})
    assert str(path) in raised.value.message
    assert "there is no setting 'server.prot': did you mean 'server.port'?" in raised.value.message
    assert "there is no setting 'redsi'" in raised.value.message


def test_a_misspelt_setting_in_the_environment_is_named_with_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DRAGON_SERVER__PROT.*did you mean 'server.port'"):
        load_config(write(tmp_path, ""), {"DRAGON_SERVER__PROT": "1"})


@pytest.mark.parametrize("name", ["DRAGON_CONFIG", "DRAGON_SECRET", "DRAGON_URL"])
def test_names_of_other_things_are_no_misspelt_settings(name: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), {name: "x"}) == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[server]\nport = 70000\n", "setting 'server.port': Input should be less than or equal to 65535"),
        ("[log]\nlevel = 'loud'\n", "setting 'log.level'"),
        ("[server\n", "is not valid TOML"),
        ("server = 1\n", "'server'"),
    ],
)
def test_a_value_that_cannot_be_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text), {})
    assert sentence in raised.value.message


def test_a_section_that_is_no_section_is_named_before_the_environment_is_put_into_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="server is a section of settings"):
        load_config(write(tmp_path, "server = 1\n"), {"PORT": "1"})


def test_no_value_of_a_setting_is_repeated_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, "[redis]\nurl = ['hidden']\n"), {})
    assert "hidden" not in raised.value.message


def test_a_settings_file_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/dragon\.toml: No such file"):
        load_config(None, {"DRAGON_CONFIG": "/nowhere/dragon.toml"})


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"HOST": "0.0.0.0", "PORT": "80"}, "http://127.0.0.1:80"),
        ({"HOST": "::"}, "http://[::1]:8000"),
        ({"DRAGON_SERVER__PUBLIC_URL": "https://tasks.example.com/"}, "https://tasks.example.com"),
    ],
)
def test_the_public_url_is_one_that_a_client_can_use(environ: dict[str, str], url: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), environ).public_url == url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_only_loopback_counts_as_loopback(host: str, loopback: bool, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), {}, server__host=host).listens_on_loopback is loopback
