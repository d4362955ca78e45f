"""What is shown of parameters: no secret that a name or a URL gives away, and everything else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dragon.masking import is_secret, masked, masked_text

SECRET = """
key keys apiKey api_key API-KEY AWSAccessKeyId access_token token secret client_secret password db_password passwd
passphrase pwd sig signature X-Amz-Signature X-Amz-Credential Authorization authorisation auth bearer cookie
session_id privateKey oauth2_auth
"""
ALIKE = "keyword monkey design passage author width url name text seconds authority"


def test_names_that_look_secret_are_told_from_those_that_only_look_alike() -> None:
    assert [name for name in SECRET.split() if not is_secret(name)] == []
    assert [name for name in ALIKE.split() if is_secret(name)] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"name": "John", "width": 3, "none": None}, {"name": "John", "width": 3, "none": None}),
        ({"token": "t", "key": ["a", 1], "secret": {"a": 1}}, {"token": "…", "key": "…", "secret": "…"}),
        ({"key": None, "token": "", "sig": 0}, {"key": None, "token": "", "sig": "…"}),
        ({"a": [{"b": {"password": "p", "c": 1}}]}, {"a": [{"b": {"password": "…", "c": 1}}]}),
        ("https://user:word@host/x?w=1", "https://…@host/x?w=1"),
        ("https://user:wo/rd@host/x", "https://…@host/x"),
        ("https://host/x?X-Amz-Signature=abc&w=2&sig=d#access_token=e", "https://host/x?X-Amz-Signature=…&w=2&sig=…#access_token=…"),
        ('see "http://a:b@c/d" and http://e:f@g', 'see "http://…@c/d" and http://…@g'),
        ("mail me@example.com, a=b", "mail me@example.com, a=b"),
        ([1, 2.5, True], [1, 2.5, True]),
    ],
)  # fmt: skip
def test_values_are_shown_without_what_is_secret(value: Any, shown: Any) -> None:
    assert masked(value) == shown


@pytest.mark.parametrize("piece", ["://", "://@", "?sig=", "&a=", "?" + "x" * 99, " http://a@"])
def test_a_long_text_takes_no_longer_than_it_is_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    masked_text(text)
    assert time.process_time() - began < 5
