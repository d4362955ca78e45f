"""Every Redis name that dragon uses, spelled once. User text never becomes part of one: it is digested first."""

from __future__ import annotations

import hashlib
import os

WORKERS = "dragon:workers"  # zset of worker ids by lease deadline (seconds of Redis's clock)
WORKER = "dragon:worker:"  # + ID, hash of what it serves; + ID + ":tasks", set of keys; also the channel for commands
FEED = "dragon:feed:"  # + ID, channel of status lines for one server process
ACCOUNT = "dragon:account:"  # + ID, hash: queued, bytes; + ID + ":minute:" + N, counter
REUSE = "dragon:reuse:"  # + digest, string: the key that serves this GET create_file
IDEMPOTENCY = "dragon:idempotency:"  # + digest, string: body digest and keys
LANE = "dragon:lane:"  # + QUEUE, string: the account whose tasks stand in the queue's own list
LANE_MARK = "@"  # between the names of a queue and of an account, in the name of that account's lane
TURNS = "dragon:turns:"  # + QUEUE, list: the accounts that wait in lanes, and that of the own list, as their turns come
PAUSED = "dragon:paused"  # set of queues that dragon's workers take nothing from
MEASURES = "dragon:measures:"  # + "minute:N", "quarter:N", "totals", hashes; + "names", set; + "flushed:ID", string
LOG = "dragon:log:"  # + KEY, stream of the task's log lines; ids are NUMBER-MARK
EXPIRIES = "dragon:expiries"  # zset of ended tasks with output files by the time their life is over

#: RQ reads the same variable (rq.defaults.RQ_KEY_PREFIX); a test compares them.
RQ = os.environ.get("RQ_KEY_PREFIX", "rq")
RQ_QUEUES = f"{RQ}:queues"
RQ_QUEUE = f"{RQ}:queue:"  # + QUEUE, list; + QUEUE@ACCOUNT, the lane of an account beside another's tasks
#: + KEY, hash: the RQ job and the task are one; dragon's fields stand beside RQ's.
TASK = f"{RQ}:job:"
RQ_WIP = f"{RQ}:wip:"
RQ_FINISHED = f"{RQ}:finished:"
RQ_FAILED = f"{RQ}:failed:"
RQ_WORKERS = f"{RQ}:workers"  # set of worker keys; + ":" + QUEUE, those of one queue
RQ_WORKER = f"{RQ}:worker:"
RQ_SUSPENDED = f"{RQ}:suspended"
RQ_PUBSUB = f"{RQ}:pubsub:"

_NOT_IN_LUA = {"RQ", "RQ_PUBSUB"}


def lua_prelude() -> str:
    """The names as Lua locals, put in front of every script."""
    names = {name: value for name, value in globals().items() if name.isupper() and name not in _NOT_IN_LUA}
    return "".join(f"local {name} = '{value}'\n" for name, value in names.items() if isinstance(value, str))


def digest(*parts: str | bytes) -> str:
    """A name for user text: SHA-256 over the length-prefixed parts, in hexadecimal."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(b"%d:" % len(data))
        hashed.update(data)
    return hashed.hexdigest()
