"""What must be true of a task: one look at it in, the findings out. Pure; `dragon audit` does the looking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dragon.status import ERROR, FINAL, SUCCESS
from dragon.store import names
from dragon.store.tasks import State

#: Seconds before the end of a task's life in which RQ's registry may have forgotten it: its scores are whole seconds.
NEARLY_OVER = 5
#: Owners of this kind are work horses of RQ's own worker, which keeps RQ's registries itself.
RQ_HORSE = "rq-"

#: What the scripts take for a task's (see `read` in _shared.lua); whatever else stands there is damaged.
_STATE = re.compile(rb"(\d{1,9}) (\d{1,9}) ([wre]) (\S*) (\S*)")
_FACTS = re.compile(rb"\d{1,9} ([\w-]*) ([\w-]*)(?: [\w-]*)?")
_HEAD = re.compile(rb'\{"status":"(\w+)","key":"([A-Z2-7]{26})"')


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold: of which kind, of what (a key, a name in Redis, a path), and what to do."""

    kind: str
    name: str
    sentence: str


class Picture(NamedTuple):
    """What Redis said of one task in one moment; None is absent, or not asked for.

    `is_listed`, `lease` and `wip` are of a task that a worker has; `places` are lists, once for each time in them.
    """

    key: str
    state: State
    account: str
    reuse: str
    queue: str  # "": wrong from the start, never queued
    rq_status: str
    bytes: int | None  # size of its output files
    status: str  # of its line; "" when that is not this task's
    life: int  # milliseconds; -1: no end
    is_listed: bool  # in its owner's set
    lease: float | None  # its owner's: until when, by Redis's clock
    wip: float | None
    finished: float | None
    failed: float | None
    expires: float | None
    places: tuple[str, ...]

    @property
    def moment(self) -> tuple[int, int, str, str]:
        """What changes with everything that happens to a task."""
        return self.state.attempt, self.state.seq, self.state.phase, self.state.owner


def read_picture(key: str, reply: Sequence[Any]) -> Picture | Finding | None:
    """A reply of examine.lua; None when there is no task of dragon's with that key, a finding when it is damaged."""
    state, facts, origin, rq_status, size, head, life, listed, lease, wip, finished, failed, expires, places = reply
    if state is None:
        return None
    read, found, line = read_state(state), _FACTS.fullmatch(facts or b""), _HEAD.match(head)
    if read is None or found is None or origin is None or not (size is None or size.isdigit()):
        name = names.TASK + key
        text = f"its hash {name} is damaged (state {state!r}, facts {facts!r}), so nobody can work on it"
        return Finding("damaged", key, f"{text}: delete it (DEL {name}) and create the task again")
    return Picture(
        key,
        read,
        found[1].decode(),
        found[2].decode(),
        origin.decode(errors="replace"),
        (rq_status or b"").decode(errors="replace"),
        None if size is None else int(size),
        line[1].decode() if line is not None and line[2].decode() == key else "",
        int(life),
        listed == 1,
        _number(lease),
        _number(wip),
        _number(finished),
        _number(failed),
        _number(expires),
        tuple(place.decode(errors="replace") for place in places),
    )


def read_state(field: bytes) -> State | None:
    """The field `state` of a task, None when it is not as the scripts write it."""
    found = _STATE.fullmatch(field)
    if found is None:
        return None
    owner, feeds = (text.decode(errors="replace") for text in found.group(4, 5))
    return State(int(found[1]), int(found[2]), found[3].decode(), owner, feeds)


def _number(score: bytes | None) -> float | None:
    return None if score is None else float(score)


def judge(picture: Picture, now: float) -> Iterator[Finding]:
    """What is wrong with a task, apart from the lists that it stands in; `now` by Redis's clock."""
    match picture.state.phase:
        case "w":
            yield from _judge_waiting(picture)
        case "r":
            yield from _judge_reserved(picture, now)
        case "e":
            yield from _judge_ended(picture, now)


def _judge_waiting(picture: Picture) -> Iterator[Finding]:
    if picture.state.owner:
        text = f"it waits and yet belongs to the worker {picture.state.owner}, so no worker takes it"
        yield Finding("damaged", picture.key, f"{text}: cancel it and create it again")
    yield from _judge_open(picture, "waits")


def _judge_reserved(picture: Picture, now: float) -> Iterator[Finding]:
    key, owner = picture.key, picture.state.owner
    if picture.lease is None:
        text = f"the worker {owner or 'nobody'} has it, which has no lease, so nobody hands it on: it is stuck"
        mend = f"list that worker (ZADD {names.WORKERS} 0 {owner}), and another hands it on" if owner else "cancel it"
        yield Finding("stuck", key, f"{text}; {mend}")
    elif picture.lease < now:
        text = f"the worker {owner} has it, whose lease is over, and no other worker has taken over"
        yield Finding("stuck", key, f"{text}: start a worker, it does that within seconds")
    if not picture.is_listed:
        name = f"{names.WORKER}{owner}:tasks"
        text = f"the worker {owner} has it, but {name} does not list it, so it would be lost with that worker"
        yield Finding("stuck", key, f"{text}: list it (SADD {name} {key})")
    is_horse = owner.startswith(RQ_HORSE)
    if picture.wip is None and not is_horse:
        member = f"{key}:{picture.state.attempt}"
        text = f"a worker has it, but RQ's registry {names.RQ_WIP}{picture.queue} does not list {member}"
        yield Finding("registry", key, f"{text}, so `rq info` does not count it: nothing to do, its end mends that")
    yield from _judge_open(picture, "is being worked on", with_rq=not is_horse)


def _judge_open(picture: Picture, does: str, *, with_rq: bool = True) -> Iterator[Finding]:
    """What is true of every task that has not ended."""
    key = picture.key
    if not picture.status:
        yield Finding("status", key, f"it {does}, but its stored status is not its own: cancel it and create it again")
    elif picture.status in FINAL:
        text = f"it {does}, but its stored status is final ({picture.status})"
        yield Finding("status", key, f"{text}, so clients think that it has ended: cancel it and create it again")
    if picture.life >= 0 and with_rq:
        text = f"it {does}, but Redis will forget it, for it has a time to live"
        yield Finding("life", key, f"{text}: take that away (PERSIST {names.TASK}{key})")
    if picture.expires is not None:
        text = f"it {does}, but stands in {names.EXPIRIES} as if it had ended, so the sweep will remove it"
        yield Finding("life", key, f"{text}: take it out (ZREM {names.EXPIRIES} {key})")
    for registry, score in ((names.RQ_FINISHED, picture.finished), (names.RQ_FAILED, picture.failed)):
        if score is not None and with_rq:
            name = registry + picture.queue
            text = f"it {does}, but RQ's registry {name} lists it as ended"
            yield Finding("registry", key, f"{text}: take it out (ZREM {name} {key})")


def _judge_ended(picture: Picture, now: float) -> Iterator[Finding]:
    key, status = picture.key, picture.status
    if status not in FINAL:
        stored = f"is {status}" if status else "is not its own"
        text = f"it has ended, but its stored status {stored}, so clients wait for ever"
        yield Finding("status", key, f"{text}: delete it (DEL {names.TASK}{key}) and create it again")
    else:
        yield from _judge_rq(picture, now)
    if picture.state.feeds:
        text = f"it has ended, but its state names followers ({picture.state.feeds}), who have had its end"
        yield Finding("follower", key, f"{text}: nothing to do, they go with it")
    if picture.expires is None and picture.bytes is not None:
        text = f"it has output files, but {names.EXPIRIES} does not list it, so no sweep will remove them"
        yield Finding("life", key, f"{text}: have them removed now (ZADD {names.EXPIRIES} 0 {key})")
    elif picture.expires is None and picture.life < 0:
        text = "it has ended, but will never be forgotten"
        yield Finding("life", key, f"{text}: give it a time to live (EXPIRE {names.TASK}{key} 604800)")


def _judge_rq(picture: Picture, now: float) -> Iterator[Finding]:
    """RQ's view of an ended task is that of its status line."""
    key, queue = picture.key, picture.queue
    finished, failed = (names.RQ_FINISHED + queue, picture.finished), (names.RQ_FAILED + queue, picture.failed)
    expected = {SUCCESS: "finished", ERROR: "failed"}[picture.status]
    if picture.rq_status != expected:
        text = f"it ended in {picture.status}, but to RQ its status is {picture.rq_status!r} instead of {expected!r}"
        yield Finding("registry", key, f"{text}: set it right (HSET {names.TASK}{key} status {expected})")
    right, wrong = (finished, failed) if picture.status == SUCCESS else (failed, finished)
    if wrong[1] is not None:
        text = f"it ended in {picture.status}, but RQ's registry {wrong[0]} lists it"
        yield Finding("registry", key, f"{text}: take it out (ZREM {wrong[0]} {key})")
    is_nearly_over = 0 <= picture.life < NEARLY_OVER * 1000 or (
        picture.expires is not None and picture.expires < now + NEARLY_OVER
    )
    if queue and right[1] is None and not is_nearly_over:
        text = f"it ended in {picture.status}, but RQ's registry {right[0]} does not list it"
        mend = "nothing to do, it is forgotten in time all the same"
        yield Finding("registry", key, f"{text}, so RQ's tools do not show it: {mend}")


def judge_places(picture: Picture) -> Iterator[Finding]:
    """Whether a task stands in exactly the lists that it has to stand in; `places` has to be filled."""
    key, main = picture.key, names.RQ_QUEUE + picture.queue
    own = {main, f"{main}{names.LANE_MARK}{picture.account}"}
    places, is_waiting = picture.places, picture.state.phase == "w"
    if not is_waiting:
        does = "has ended" if picture.state.phase == "e" else "is being worked on"
        for place in sorted(set(places)):
            text = f"it {does}, but stands in {place} as if it waited; a worker that meets it there drops it"
            yield Finding("place", key, f"{text}, or take it out (LREM {place} 0 {key})")
        return
    popped = f"{main}:intermediate"
    if popped in places and not own & set(places):
        text = "it waits; a worker of RQ's own has popped it and not begun it, and RQ only fails it, so it is lost"
        yield Finding("lost", key, f"{text}: put it back (LREM {popped} 0 {key} and RPUSH {main} {key})")
    elif not own & set(places):
        text = f"it waits, but stands in no list of its queue {picture.queue!r}, so no worker will find it: it is lost"
        yield Finding("lost", key, f"{text}; put it back (RPUSH {main} {key}), or cancel it")
    for place in sorted(set(places) - own - {popped}):
        text = f"it waits, and stands in {place}, which is no list of its queue {picture.queue!r}"
        yield Finding("place", key, f"{text}: take it out (LREM {place} 0 {key})")
    count = sum(place in own for place in places)
    if count > 1:
        where = " and ".join(sorted(own & set(places)))
        text = f"it waits {count} times, in {where}; a worker that meets it again drops it"
        yield Finding("place", key, f"{text}, or take one out (LREM {min(own & set(places))} 1 {key})")
