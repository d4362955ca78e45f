"""Where waiting tasks stand: in which list of their queue, and in which place of the turns.

A queue is its own list and, while several accounts wait, lanes beside it from which workers take in turns
(docs/adr/0009). Lists are read in pages, never as a whole: what they say is of a moment ago, good enough for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from dragon.connections import Argument, Redis
from dragon.store import names

PAGE = 1000  # keys that one command reads
DEPTH = 10_000  # places of a list that are looked at; what stands behind has no place that is known
FEW = 4  # keys that are searched for one by one


async def _ask(redis: Redis, *command: Argument) -> Any:
    """The reply of a command, None when what stands there is of another type than dragon keeps there."""
    try:
        return await redis.command(*command)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return None


@dataclass(frozen=True, slots=True)
class Lanes:
    """A queue's lists, and whose turn it is; no turns: one account has the queue to itself."""

    queue: str
    own: str  # the account whose tasks stand in the queue's own list
    turns: tuple[str, ...]  # accounts, the next one first
    lengths: dict[str, int]  # tasks waiting, by account of `turns`

    def list_of(self, account: str) -> str:
        """The list that an account's tasks stand in."""
        is_own = not self.turns or account == self.own
        return names.RQ_QUEUE + self.queue + ("" if is_own else names.LANE_MARK + account)

    def before(self, account: str, rank: int) -> int:
        """How many tasks come before the one that has `rank` others of its account before it."""
        before, has_had_turn = rank, False
        for other in self.turns:
            if other == account:
                has_had_turn = True
            else:  # those that come first in a round have been served once more when it is this one's turn
                before += min(self.lengths[other], rank if has_had_turn else rank + 1)
        return before


async def read_lanes(redis: Redis, queue: str) -> Lanes:
    """How a queue's tasks are spread over its lists now."""
    own, turns = await asyncio.gather(
        _ask(redis, "GET", names.LANE + queue), _ask(redis, "LRANGE", names.TURNS + queue, 0, DEPTH - 1)
    )
    lanes = Lanes(queue, (own or b"").decode(errors="replace"), _accounts(turns or []), {})
    lengths = await asyncio.gather(*(_ask(redis, "LLEN", lanes.list_of(account)) for account in lanes.turns))
    lanes.lengths.update({account: length or 0 for account, length in zip(lanes.turns, lengths, strict=True)})
    return lanes


def _accounts(turns: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(account.decode(errors="replace") for account in turns))


async def read_ranks(redis: Redis, name: str, keys: Collection[str]) -> dict[str, int]:
    """How many keys stand before each of these in a list; without those that are not in its first DEPTH places."""
    if len(keys) <= FEW:
        places = await asyncio.gather(*(_ask(redis, "LPOS", name, key, "MAXLEN", DEPTH) for key in keys))
        return {key: place for key, place in zip(keys, places, strict=True) if place is not None}
    missing = {key.encode() for key in keys}
    ranks: dict[str, int] = {}
    for first in range(0, DEPTH, PAGE):
        page = await _ask(redis, "LRANGE", name, first, first + PAGE - 1) or []
        for place, key in enumerate(page, first):
            if key in missing:
                missing.discard(key)
                ranks[key.decode()] = place
        if not missing or len(page) < PAGE:
            break
    return ranks


async def names_in(redis: Redis, name: str, count: int) -> list[str]:
    """The task names of the first `count` keys in a list, as far as they are tasks."""
    keys = await _ask(redis, "LRANGE", name, 0, count - 1) or []
    found = await asyncio.gather(*(_ask(redis, "HGET", names.TASK.encode() + key, "description") for key in keys))
    return [one.decode(errors="replace") for one in found if one]
