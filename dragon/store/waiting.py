"""Where waiting tasks stand: how many wait in each queue, for how long, and in which place of the turn one comes.

A queue is its own list and, while several accounts wait, lanes beside it from which workers take in turns
(docs/adr/0009). Lists are read in pages, never as a whole: what they say is of a moment ago, good enough for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from dragon.connections import Argument, Redis
from dragon.store import names
from dragon.store.workers import clock

PAGE = 1000  # keys that one command reads
DEPTH = 10_000  # places of a list that are looked at; what stands behind has no place that is known
FEW = 4  # keys that are searched for one by one
LANE_MARK = "@"  # between the names of a queue and of an account, in the name of that account's lane


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue in one moment."""

    queue: str
    waiting: int
    oldest: float | None  # seconds that the task has waited that comes next, the longest of all lanes
    is_paused: bool


async def depths(redis: Redis, queues: Iterable[str]) -> list[Depth]:
    """How much waits in these queues, in their order."""
    listed, paused, now = await asyncio.gather(
        redis.command("SMEMBERS", names.RQ_QUEUES), paused_queues(redis), clock(redis)
    )
    lists: dict[str, list[str]] = {queue: [names.RQ_QUEUE + queue] for queue in queues}
    for raw in listed:
        name = raw.decode(errors="replace")
        queue, mark, _ = name.removeprefix(names.RQ_QUEUE).rpartition(LANE_MARK)
        if mark and queue in lists:
            lists[queue].append(name)
    found = await asyncio.gather(*(_depth(redis, some) for some in lists.values()))
    return [
        Depth(queue, waiting, None if since is None else max(0.0, now - since), queue in paused)
        for queue, (waiting, since) in zip(lists, found, strict=True)
    ]


async def _depth(redis: Redis, lists: Sequence[str]) -> tuple[int, float | None]:
    """How many keys stand in the lists, and since when the oldest of those that come next."""
    lengths = await asyncio.gather(*(_ask(redis, "LLEN", name) for name in lists))
    heads = await asyncio.gather(*(_ask(redis, "LINDEX", name, 0) for name in lists))
    dates = await asyncio.gather(
        *(_ask(redis, "HGET", names.TASK.encode() + key, "enqueued_at") for key in heads if key)
    )
    since = [seconds for date in dates if date and (seconds := _unix_time(date)) is not None]
    return sum(length or 0 for length in lengths), min(since, default=None)


async def _ask(redis: Redis, *command: Argument) -> Any:
    """The reply of a command, None when what stands there is of another type than dragon keeps there."""
    try:
        return await redis.command(*command)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return None


def _unix_time(date: bytes) -> float | None:
    try:
        return datetime.fromisoformat(date.decode()).timestamp()
    except ValueError:
        return None


async def paused_queues(redis: Redis) -> set[str]:
    """The queues that workers take nothing from until they are resumed."""
    return {name.decode(errors="replace") for name in await redis.command("SMEMBERS", names.PAUSED)}


async def is_suspended(redis: Redis) -> bool:
    """Whether `rq suspend` has stopped all workers."""
    return bool(await redis.command("EXISTS", names.RQ_SUSPENDED))


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
        return names.RQ_QUEUE + self.queue + ("" if is_own else LANE_MARK + account)

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
