"""How many streams and waiting calls one process has open, in all and for each account: counted before they begin."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from dragon.auth import Account
from dragon.errors import Full, Unauthorized

ACCOUNT_RETRY = 5.0  # seconds after which an account may have ended one of its streams


class Place(NamedTuple):
    """One open stream; to be given back with `close`."""

    account: str | None
    followed: int  # tasks


class Streams:
    """The count. Every stream and every call that waits for tasks holds a `Place`."""

    def __init__(self, most: int, most_followed: int) -> None:
        """`most` streams at once, which follow `most_followed` tasks at most, added up."""
        self._most = most
        self._most_followed = most_followed
        self._accounts: Counter[str] = Counter()
        self.count = 0
        self.followed = 0  # tasks of all streams, one that two of them follow twice

    def open(self, followed: int, account: Account | None = None) -> Place:
        """Takes a place. Raises Full for the process's limits and Unauthorized for the account's; nothing is held then.

        `account` is None for those who follow existing tasks: they have sent no credentials.
        """
        if self.count >= self._most:
            raise Full(f"this server has {self._most} streams and waiting calls open, and takes no more: try again")
        if self.followed + followed > self._most_followed:
            raise Full(
                f"the streams of this server follow {self.followed} tasks, {followed} more are too many: try again"
            )
        place = Place(None if account is None else account.id, followed)
        if account is not None:
            self._check(account)
            self._accounts[account.id] += 1
        self.count += 1
        self.followed += followed
        return place

    def close(self, place: Place) -> None:
        """Gives a place back, once."""
        self.count -= 1
        self.followed -= place.followed
        if place.account is not None:
            self._accounts[place.account] -= 1
            if not self._accounts[place.account]:
                del self._accounts[place.account]

    def of(self, account: str) -> int:
        """How many streams of the account are counted now."""
        return self._accounts[account]

    def _check(self, account: Account) -> None:
        most = account.limits.streams
        if most is not None and self._accounts[account.id] >= most:
            raise Unauthorized(
                f"account limit reached: {most} streams and waiting calls at once", retry_after=ACCOUNT_RETRY
            )
