"""The audit: looks at everything that dragon keeps and says what breaks an invariant. It only reads.

Redis is read in small pieces, so that it serves everybody else meanwhile, and what is read moves on. So a suspicion
counts only when a second look, a moment later, finds the same of a task (or a name, or a path) to which nothing has
happened in between; where a task stands is then searched in one step, in which nothing can move.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from dragon.config import Config
from dragon.connections import Argument, Redis
from dragon.files.audit import audit_files, audit_scratch
from dragon.keys import is_key
from dragon.signing import ACCOUNT_ID
from dragon.store import names
from dragon.store.judgement import NEARLY_OVER, Finding, Picture, judge, judge_places, read_picture
from dragon.store.scripts import script

#: Seconds between two looks: a worker gives a sign of life and looks after the dead once a second.
PAUSE = 1.5
#: What one command reads at most, so that it takes Redis a millisecond or so.
SCAN_COUNT, TASKS_A_TRIP, ENTRIES_A_TRIP, BYTES_A_TRIP = 500, 100, 500, 256 * 1024
#: Tasks that are searched for; when even more have been seen in no list twice, that is no accident.
MOST_SEARCHED = 1000

#: What is kept of measurements for ever; everything else of theirs passes.
_LASTING = frozenset({"totals", "names"})

_NUMBER = re.compile(rb"-?\d{1,18}")  # as HINCRBY writes it

Suspicions = dict[Finding, object]  # with what would have changed if anything had happened meanwhile
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found, and how much it looked at."""

    findings: tuple[Finding, ...]
    waiting: int
    reserved: int
    ended: int
    workers: int
    accounts: int
    unsettled: tuple[str, ...]  # accounts whose counters cannot be compared, for their tasks move
    files: int  # output folders; -1: they are not on this machine
    seconds: float

    @property
    def is_sound(self) -> bool:
        return not self.findings


async def audit(config: Config, redis: Redis, *, pause: float = PAUSE) -> Report:
    """Looks at everything once, and where something seems wrong a second time after `pause` seconds."""
    began = time.monotonic()
    look = await _Look.take(config, redis)
    findings: list[Finding] = []
    unsettled: list[str] = []
    if look.suspicions or look.displaced or look.differences:
        await asyncio.sleep(pause)
        first, look = look, await _Look.take(config, redis)
        findings = [
            finding
            for finding, evidence in look.suspicions.items()
            if finding in first.suspicions and first.suspicions[finding] == evidence
        ]
        findings += await _search(redis, first.displaced, look.displaced)
        for account, difference in look.differences.items():
            if first.differences.get(account) == difference:
                findings += difference.findings(account)
            elif account in first.differences:
                unsettled.append(account)
    return Report(
        tuple(sorted(set(findings), key=lambda finding: (finding.kind, finding.name, finding.sentence))),
        look.counts["w"],
        look.counts["r"],
        look.counts["e"],
        len(look.leases),
        len(look.accounts),
        tuple(sorted(unsettled)),
        look.folders,
        time.monotonic() - began,
    )


@dataclass
class _Account:
    """What the tasks of an account add up to."""

    waiting: int = 0
    bytes: int = 0
    history: int = 0  # changes with everything that happens to any of its tasks


@dataclass(frozen=True)
class _Difference:
    """Counters of an account that are not what its tasks add up to."""

    history: int
    queued: int
    waiting: int
    bytes: int
    stored: int

    def findings(self, account: str) -> Iterator[Finding]:
        name = names.ACCOUNT + account
        if self.queued != self.waiting:
            text = (
                f"it counts {self.queued} tasks queued, but {self.waiting} wait "
                "(RQ's `rq empty` and the like remove tasks without telling dragon)"
            )
            yield Finding("counter", name, f"{text}: HINCRBY {name} queued {self.waiting - self.queued}")
        if self.bytes != self.stored:
            text = f"it counts {self.bytes} bytes of output files, but its tasks' are {self.stored}"
            yield Finding("counter", name, f"{text}: HINCRBY {name} bytes {self.stored - self.bytes}")


@dataclass
class _Displaced:
    """A task that seems to stand in other lists than it should, and where it was seen."""

    picture: Picture
    places: list[str] = field(default_factory=list)


@dataclass
class _Names:
    """What there is in Redis, by kind; each without its prefix. Sets, since SCAN may name a key twice."""

    queues: set[str] = field(default_factory=set)
    wips: set[str] = field(default_factory=set)
    registries: set[str] = field(default_factory=set)  # whole names
    workers: set[str] = field(default_factory=set)
    holdings: set[str] = field(default_factory=set)  # workers that have a set of tasks
    accounts: set[str] = field(default_factory=set)
    reuses: set[str] = field(default_factory=set)
    idempotencies: set[str] = field(default_factory=set)
    measures: set[str] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)

    def sort_in(self, name: str) -> None:
        for prefix, found in (
            (names.RQ_QUEUE, self.queues),
            (names.RQ_WIP, self.wips),
            (names.REUSE, self.reuses),
            (names.IDEMPOTENCY, self.idempotencies),
            (names.MEASURES, self.measures),
            (names.LOG, self.logs),
        ):
            if name.startswith(prefix):
                found.add(name.removeprefix(prefix))
                return
        if name.startswith((names.RQ_FINISHED, names.RQ_FAILED)):
            self.registries.add(name)
        elif name.startswith(names.WORKER):
            worker = name.removeprefix(names.WORKER)
            found = self.holdings if worker.endswith(":tasks") else self.workers
            found.add(worker.removesuffix(":tasks"))
        elif name.startswith(names.ACCOUNT) and ACCOUNT_ID.fullmatch(name.removeprefix(names.ACCOUNT)):
            self.accounts.add(name.removeprefix(names.ACCOUNT))


class _Look:
    """One pass over everything. What it suspects may have been in motion."""

    def __init__(self, config: Config, redis: Redis) -> None:
        self._config = config
        self._redis = redis
        self.suspicions: Suspicions = {}
        self.displaced: dict[str, _Displaced] = {}
        self.differences: dict[str, _Difference] = {}
        self.counts: dict[str, int] = defaultdict(int)  # tasks by phase
        self.leases: dict[str, float] = {}
        self.accounts: dict[str, _Account] = defaultdict(_Account)
        self.folders = -1
        self._names = _Names()
        # Waiting tasks: what identifies their present moment, and the lists that are theirs. Equal values are shared.
        self._waiting: dict[str, tuple[str, str]] = {}
        self._reserved: dict[str, Picture] = {}
        self._by_rq: set[str] = set()  # keys that RQ's own worker has taken
        self._with_files: dict[str, int] = {}  # ended tasks' keys: their winners' attempts
        self._feeds: set[str] = set()
        self._shared: dict[tuple[str, str], tuple[str, str]] = {}
        self._now = 0.0

    @classmethod
    async def take(cls, config: Config, redis: Redis) -> _Look:
        look = cls(config, redis)
        await look._read_leases()
        await look._read_tasks()
        await look._compare_counters()
        await look._read_wips()
        await look._read_lists()
        await look._read_lanes()
        await look._ask("SMEMBERS", names.PAUSED)
        await look._read_holdings()
        await look._read_registries()
        await look._read_expiries()
        await look._read_reuses()
        await look._read_idempotencies()
        await look._read_measures()
        await look._read_logs()
        await look._ask_for_listeners()
        await look._look_at_files()
        return look

    def _suspect(self, finding: Finding, evidence: object = None) -> None:
        self.suspicions[finding] = evidence

    async def _ask(self, command: str, name: str, *arguments: Argument) -> Any:
        """The reply of a command, None when what stands under that name is of another type than dragon keeps there."""
        try:
            return await self._redis.command(command, name, *arguments)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            text = f"{name} is of another type than dragon keeps there, so nobody can use it"
            self._suspect(Finding("damaged", name, f"{text}: see what it is (TYPE {name}), and delete it (DEL {name})"))
            return None

    async def _scan(self, command: str, name: str) -> AsyncIterator[list[bytes]]:
        """All that SSCAN or ZSCAN finds, a piece at a time; some of it may come twice."""
        cursor = b"0"
        while (reply := await self._ask(command, name, cursor, "COUNT", SCAN_COUNT)) is not None:
            cursor, found = reply
            yield found
            if cursor == b"0":
                return

    # Tasks

    async def _read_leases(self) -> None:
        seconds, microseconds = await self._redis.command("TIME")
        self._now = int(seconds) + int(microseconds) / 1e6
        found = await self._ask("ZRANGE", names.WORKERS, 0, -1, "WITHSCORES")
        for worker, lease in _pairs(found or []):
            name = worker.decode(errors="replace")
            self.leases[name] = float(lease)
            if float(lease) < self._now:
                text = f"the lease of the worker {name} is over, and nobody has cleaned up after it"
                sentence = f"{text}: start a worker, it does that within seconds"
                self._suspect(Finding("leftover", names.WORKERS, sentence), lease)

    async def _read_tasks(self) -> None:
        keys: list[str] = []
        async for found in _scan_all(self._redis):
            for raw in found:
                name = raw.decode(errors="replace")
                key = name.removeprefix(names.TASK)
                if key != name:
                    keys += [key] if is_key(key) else []  # else another's RQ job, or what RQ keeps beside one
                else:
                    self._names.sort_in(name)
            while len(keys) >= TASKS_A_TRIP:
                trip, keys = keys[:TASKS_A_TRIP], keys[TASKS_A_TRIP:]
                await self._read_some(trip)
        await self._read_some(keys)

    async def _read_some(self, keys: Sequence[str]) -> None:
        async for picture, now in self._examine(keys):
            self._now = now
            self._note(picture)
            for finding in judge(picture, now):
                self._suspect(finding, picture.moment)

    async def _examine(self, keys: Sequence[str]) -> AsyncIterator[tuple[Picture, float]]:
        """What Redis says of the tasks, with the time; tasks that are none of dragon's are left out."""
        async for _, found, now in examine(self._redis, keys):
            if isinstance(found, Picture):
                yield found, now
            elif found is not None:
                self._suspect(found)

    def _note(self, picture: Picture) -> None:
        key, phase = picture.key, picture.state.phase
        if key in self._waiting or key in self._reserved or key in self._with_files:
            return  # SCAN may name a key twice
        self.counts[phase] += 1
        account = self.accounts[picture.account]
        account.history += hash((key, *picture.moment))
        if phase == "w":
            account.waiting += 1
            lists = (picture.queue, picture.account)
            self._waiting[key] = self._shared.setdefault(lists, lists)
        elif phase == "r":
            self._reserved[key] = picture
        if picture.bytes is not None and phase == "e":
            account.bytes += picture.bytes
            self._with_files[key] = picture.state.attempt
        if phase != "e":
            self._feeds.update(filter(None, picture.state.feeds.split(",")))

    async def _compare_counters(self) -> None:
        """Read between two looks at the tasks: had anything happened to an account's, the two would not be equal."""
        for account in self._names.accounts:
            self.accounts[account]  # one that has no tasks any more
        for some in _chunks(list(self.accounts), TASKS_A_TRIP):
            replies = await asyncio.gather(
                *(self._ask("HMGET", names.ACCOUNT + account, "queued", "bytes") for account in some)
            )
            for account, reply in zip(some, replies, strict=True):
                if reply is not None:
                    self._compare(account, reply[0] or b"0", reply[1] or b"0")

    def _compare(self, account: str, queued: bytes, size: bytes) -> None:
        found, name = self.accounts[account], names.ACCOUNT + account
        if not (_NUMBER.fullmatch(queued) and _NUMBER.fullmatch(size)):
            text = f"it counts {size!r} bytes of output files and {queued!r} tasks queued, which are no numbers"
            mend = f"HSET {name} queued {found.waiting} bytes {found.bytes}"
            self._suspect(Finding("damaged", name, f"{text}: {mend}"), found.history)
        elif (int(queued), int(size)) != (found.waiting, found.bytes):
            self.differences[account] = _Difference(found.history, int(queued), found.waiting, int(size), found.bytes)

    # Where tasks stand

    async def _read_wips(self) -> None:
        """RQ's registries of what runs: KEY:ATTEMPT by dragon's workers, KEY:HEX with a deadline by RQ's own."""
        for queue in self._names.wips:
            entries: list[tuple[str, str, float]] = []
            async for found in self._scan("ZSCAN", names.RQ_WIP + queue):
                for member, score in _pairs(found):
                    key, _, attempt = member.decode(errors="replace").partition(":")
                    entries.append((key, attempt, float(score)))
            for some in _chunks(entries, TASKS_A_TRIP):
                await self._judge_wip(queue, some)

    async def _judge_wip(self, queue: str, entries: Sequence[tuple[str, str, float]]) -> None:
        pictures = await self._pictures([key for key, _, _ in entries])
        for key, attempt, score in entries:
            picture = pictures.get(key)
            if picture is None and not is_key(key):
                continue  # another's RQ job
            if not attempt.isdecimal() and score > self._now:
                self._by_rq.add(key)
                continue
            is_running = picture is not None and (picture.state.phase, picture.queue) == ("r", queue)
            if picture is not None and is_running and str(picture.state.attempt) == attempt:
                continue
            name = names.RQ_WIP + queue
            text = f"{name} lists attempt {attempt} of {key} as running, which is not so"
            evidence = picture.moment if picture is not None else None
            self._suspect(Finding("leftover", key, f"{text}: take it out (ZREM {name} {key}:{attempt})"), evidence)

    async def _pictures(self, keys: Sequence[str]) -> dict[str, Picture]:
        return {picture.key: picture async for picture, _ in self._examine([key for key in keys if is_key(key)])}

    async def _read_lists(self) -> None:
        unseen = set(self._waiting)
        misplaced: dict[str, list[str]] = defaultdict(list)  # where they were seen, too
        strangers: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names.queues):
            if await self._redis.command("TYPE", names.RQ_QUEUE + name) != b"list":
                continue  # RQ keeps other things under such names
            first = 0
            while keys := await self._redis.command("LRANGE", names.RQ_QUEUE + name, first, first + ENTRIES_A_TRIP - 1):
                first += len(keys)
                for raw in keys:
                    key = raw.decode(errors="replace")
                    lists = self._waiting.get(key)
                    if lists is None:
                        strangers[key].append(names.RQ_QUEUE + name)
                    elif key in unseen and name in (lists[0], f"{lists[0]}{names.LANE_MARK}{lists[1]}"):
                        unseen.discard(key)
                    else:
                        misplaced[key].append(names.RQ_QUEUE + name)
        unseen -= self._by_rq
        await self._look_up({key: misplaced.get(key, []) for key in unseen | misplaced.keys()}, strangers)

    async def _look_up(self, suspected: dict[str, list[str]], strangers: dict[str, list[str]]) -> None:
        """What moved while the lists were read waits no more, or was not there when the tasks were read."""
        for some in _chunks(list(suspected), TASKS_A_TRIP):
            for key, picture in (await self._pictures(some)).items():
                self.displaced[key] = _Displaced(picture, suspected[key])
        for some in _chunks(list(strangers), TASKS_A_TRIP):
            pictures = await self._pictures(some)
            for key in some:
                found = pictures.get(key)
                if found is None and is_key(key):
                    self._suspect(_gone(strangers[key][0], key, "a worker that meets it drops it, or", "LREM {} 0 {}"))
                elif found is not None and (found.state.phase != "w" or len(strangers[key]) > 1):
                    self.displaced[key] = _Displaced(found, strangers[key])

    async def _read_lanes(self) -> None:
        lanes: dict[str, list[str]] = defaultdict(list)
        for name in self._names.queues:
            queue, mark, account = name.rpartition(names.LANE_MARK)
            if mark and ACCOUNT_ID.fullmatch(account):
                lanes[queue].append(account)
        for queue, accounts in lanes.items():
            for some in _chunks(accounts, ENTRIES_A_TRIP):
                await self._judge_lanes(queue, some)

    async def _judge_lanes(self, queue: str, accounts: Sequence[str]) -> None:
        """Whether each account that waits has its turn, and the queue's own list something to wake workers up."""
        own, turns = names.RQ_QUEUE + queue, names.TURNS + queue
        length, account, count, *found = await self._redis.run(script("examine_lanes"), (queue, *accounts))
        lanes = list(zip(accounts, found[::2], found[1::2], strict=True))
        evidence = (length, account, *lanes)
        if any(waiting for _, waiting, _ in lanes):
            if not length:
                text = f"{own} is empty while tasks wait in lanes beside it, so no worker is woken for them"
                self._suspect(
                    Finding("lane", own, f"{text}: start a worker of this queue, it mends that within seconds"),
                    evidence,
                )
            lanes.append(((account or b"").decode(errors="replace"), length, count))
        for name, waiting, turn_count in lanes:
            if waiting and turn_count != 1:
                text = f"tasks of {name} wait in the queue {queue!r}, and it has {turn_count} turns in {turns}, not one"
                mend = f"LREM {turns} {turn_count - 1} {name}" if turn_count else f"RPUSH {turns} {name}"
                self._suspect(Finding("lane", turns, f"{text}: {mend}"), evidence)

    async def _read_holdings(self) -> None:
        """The sets of keys that workers hold, and the workers' own hashes."""
        for worker in self._names.workers | self._names.holdings:
            if worker not in self.leases and not await self._redis.command("ZSCORE", names.WORKERS, worker):
                text = f"{names.WORKER}{worker} is of a worker that has no lease, so nobody will clean up after it"
                mend = f"list it (ZADD {names.WORKERS} 0 {worker}), and another worker does"
                self._suspect(Finding("leftover", names.WORKER + worker, f"{text}: {mend}"))
        for worker in self._names.holdings:
            name = f"{names.WORKER}{worker}:tasks"
            async for found in self._scan("SSCAN", name):
                keys = [raw.decode(errors="replace") for raw in found]
                unknown = [key for key in keys if not self._is_held(key, worker)]
                await self._judge_held(name, worker, unknown)

    def _is_held(self, key: str, worker: str) -> bool:
        return key in self._reserved and self._reserved[key].state.owner == worker

    async def _judge_held(self, name: str, worker: str, keys: Sequence[str]) -> None:
        for some in _chunks(keys, TASKS_A_TRIP):
            pictures = await self._pictures(some)
            for key in some:
                picture = pictures.get(key)
                if picture is None:
                    self._suspect(_gone(name, key, "", "SREM {} {}"))
                elif picture.state.phase != "r" or picture.state.owner != worker:
                    text = f"{name} lists {key}, which that worker does not have: take it out (SREM {name} {key})"
                    self._suspect(Finding("leftover", key, text), picture.moment)

    # What outlives tasks

    async def _read_registries(self) -> None:
        for name in self._names.registries:
            await self._expect_tasks(name, "the sweep takes it out in time, or", "ZREM {} {}")

    async def _read_expiries(self) -> None:
        await self._expect_tasks(names.EXPIRIES, "the sweep takes it out in time, with its files, or", "ZADD {} 0 {}")

    async def _expect_tasks(self, name: str, otherwise: str, mend: str) -> None:
        """Whether the tasks exist that a sorted set lists; those whose life is over are the sweep's."""
        first = 0
        while found := await self._ask("ZRANGE", name, first, first + ENTRIES_A_TRIP - 1, "WITHSCORES"):
            pairs = list(_pairs(found))
            first += len(pairs)
            keys = [key.decode(errors="replace") for key, score in pairs if float(score) > self._now + NEARLY_OVER]
            keys = [key for key in keys if is_key(key)]
            if keys and await self._redis.command("EXISTS", *(names.TASK + key for key in keys)) < len(keys):
                for key in keys:
                    if not await self._redis.command("EXISTS", names.TASK + key):
                        self._suspect(_gone(name, key, otherwise, mend))

    async def _read_reuses(self) -> None:
        for digests in _chunks(sorted(self._names.reuses), TASKS_A_TRIP):
            values = await self._redis.command("MGET", *(names.REUSE + digest for digest in digests))
            lives = await asyncio.gather(*(self._redis.command("PTTL", names.REUSE + one) for one in digests))
            keys = {
                digest: value.decode(errors="replace") for digest, value in zip(digests, values, strict=True) if value
            }
            pictures = await self._pictures(list(set(keys.values())))
            for digest, life in zip(digests, lives, strict=True):
                if digest in keys and not 0 <= life < NEARLY_OVER * 1000:
                    self._judge_reuse(digest, keys[digest], pictures.get(keys[digest]), life)

    def _judge_reuse(self, digest: str, key: str, picture: Picture | None, life: int) -> None:
        name = names.REUSE + digest
        mend = f"DEL {name}"
        if picture is None:
            text = f"{name} names {key} for a request to be answered with, which does not exist"
            mend = f"the next such request replaces it, or {mend}"
        elif picture.reuse != digest:
            text = f"{name} names {key} for a request to be answered with, which is of another request"
        elif picture.state.phase == "e" and picture.status != "success":
            text = f"{name} names {key} for a request to be answered with, which ended in an error"
        elif picture.state.phase == "e" and life == -1:
            text = f"{name} names {key}, which has ended, and has itself no end"
        else:
            return
        self._suspect(Finding("reuse", name, f"{text}: {mend}"), picture and picture.moment)

    async def _read_idempotencies(self) -> None:
        for digests in _chunks(sorted(self._names.idempotencies), TASKS_A_TRIP):
            lives = await asyncio.gather(*(self._redis.command("PTTL", names.IDEMPOTENCY + one) for one in digests))
            for digest, life in zip(digests, lives, strict=True):
                if life == -1:
                    name = names.IDEMPOTENCY + digest
                    text = f"{name} answers a repeated request for ever instead of for a day"
                    self._suspect(Finding("idempotency", name, f"{text}: EXPIRE {name} 86400"))

    async def _read_measures(self) -> None:
        """Slots and flushes go by themselves: what is measured takes the same space for ever."""
        passing = [names.MEASURES + name for name in sorted(self._names.measures) if name not in _LASTING]
        for some in _chunks(passing, TASKS_A_TRIP):
            lives = await asyncio.gather(*(self._redis.command("PTTL", name) for name in some))
            for name, life in zip(some, lives, strict=True):
                if life == -1:
                    text = f"{name} is kept for ever instead of for a day"
                    self._suspect(Finding("measures", name, f"{text}: EXPIRE {name} 86400"))

    async def _read_logs(self) -> None:
        """Redis removes a log in its time, with or without a task: only one that has no end stays for ever."""
        for keys in _chunks(sorted(self._names.logs), TASKS_A_TRIP):
            lives = await asyncio.gather(*(self._redis.command("PTTL", names.LOG + key) for key in keys))
            for key, life in zip(keys, lives, strict=True):
                name = names.LOG + key
                if not is_key(key):
                    text = f"{name} has the name of a log, but of no task: see what it is (TYPE {name})"
                    self._suspect(Finding("leftover", name, f"{text}, and delete it (DEL {name})"))
                elif life == -1:
                    text = f"{name} has no end, so that it outlives its task: EXPIRE {name} {self._config.files.life}"
                    self._suspect(Finding("life", name, text))

    async def _ask_for_listeners(self) -> None:
        for feeds in _chunks(sorted(self._feeds), TASKS_A_TRIP):
            found = await self._redis.command("PUBSUB", "NUMSUB", *(names.FEED + feed for feed in feeds))
            for channel, count in _pairs(found):
                if not count:
                    name = channel.decode()
                    text = f"tasks that have not ended are followed over {name}, to which no server listens"
                    mend = "nothing to do, the next status of each of them ends that"
                    self._suspect(Finding("follower", name, f"{text}: {mend}"))

    # Files

    async def _look_at_files(self) -> None:
        self.folders = await audit_files(self._config, self._redis, self._with_files, self._suspect)
        await audit_scratch(self._config, self.leases, self._suspect)


def _gone(name: str, key: str, otherwise: str, mend: str) -> Finding:
    """An entry for no task: what happens to it by itself, and the command that removes it from `name`."""
    what_to_do = f"{otherwise} take it out ({mend.format(name, key)})".lstrip()
    return Finding("leftover", key, f"{name} lists {key}, which does not exist: {what_to_do}")


async def examine(
    redis: Redis, keys: Sequence[str], lists: Sequence[str] = ()
) -> AsyncIterator[tuple[str, Picture | Finding | None, float]]:
    """What Redis says of each key, with the time by Redis's clock; searches `lists` for them too."""
    at = 0
    while at < len(keys):
        some = keys[at : at + TASKS_A_TRIP]
        now, *replies = await redis.run(script("examine"), (BYTES_A_TRIP, len(lists), *lists, *some))
        for key, reply in zip(some, replies, strict=False):
            yield key, read_picture(key, reply), float(now)
        at += len(replies)


async def _search(redis: Redis, first: dict[str, _Displaced], second: dict[str, _Displaced]) -> list[Finding]:
    """Searches the lists for the tasks that seemed displaced in both looks and to which nothing had happened."""
    findings: list[Finding] = []
    same = [key for key in second if key in first and first[key].picture.moment == second[key].picture.moment]
    for number, key in enumerate(same):
        picture = second[key].picture
        if number < MOST_SEARCHED or second[key].places:
            main = names.RQ_QUEUE + picture.queue
            lists = {main, f"{main}{names.LANE_MARK}{picture.account}", *first[key].places, *second[key].places}
            async for _, found, _ in examine(redis, [key], sorted(lists)):
                if isinstance(found, Picture):
                    findings += judge_places(found)
        else:
            findings += judge_places(picture)
    return findings


async def _scan_all(redis: Redis) -> AsyncIterator[list[bytes]]:
    """All names in Redis, a piece at a time; some of them may come twice."""
    cursor = b"0"
    while True:
        cursor, found = await redis.command("SCAN", cursor, "COUNT", SCAN_COUNT)
        yield found
        if cursor == b"0":
            return


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
