"""How long a server waits for its clients, and what the system knows of how they get on."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from asyncio import Transport
from dataclasses import dataclass

#: Of Linux's struct tcp_info: packets that are not acknowledged, bytes that are, bytes that were not sent.
_TCP_INFO = struct.Struct("=24xI92xQ16xI")
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Patience:
    """A client gets on when it moves `rate` bytes a second, over `seconds`."""

    seconds: float
    rate: float

    @property
    def least(self) -> int:
        """Bytes to move within `seconds`."""
        return max(1, round(self.seconds * self.rate))

    @property
    def interval(self) -> float:
        """Seconds between two looks at a connection: who is too slow is cut within 9/8 of `seconds`."""
        return self.seconds / 16

    @property
    def leftovers(self) -> float:
        """Seconds for what is still unsent when a connection is closed."""
        return 1.5 * self.seconds


class Pace:
    """Something that has to get on: a goal in bytes, and when the one before it was reached."""

    __slots__ = ("goal", "since", "what")

    def __init__(self, what: object, goal: int, now: float) -> None:
        """`what` it is that gets on; another one begins anew."""
        self.what = what
        self.goal = goal
        self.since = now

    def is_late(self, reached: int, next_goal: int, now: float, seconds: float) -> bool:
        """Tells whether the goal was not reached in time; sets the next one when it was reached."""
        if reached < self.goal:
            return now - self.since > seconds
        self.goal = next_goal
        self.since = now
        return False


def taken(transport: Transport) -> tuple[int, int]:
    """Bytes that the client's side has accepted since the connection began, and those that wait for it.

    Where the system does not tell (not Linux), what has left this process counts as accepted.
    """
    here = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return -here, here
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    on_the_way, accepted, not_sent = _TCP_INFO.unpack(info)
    if not (on_the_way or not_sent):
        return accepted, here
    return accepted, here + int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def limit_leftovers(listener: socket.socket, seconds: float) -> None:
    """Lets the kernel give up what a client has not accepted for so long; accepted sockets inherit it.

    It is for connections that this process has closed and that have something unsent: nobody else looks at those. To
    open ones it comes second, because it does not tell the client, which would notice nothing until it sends something.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))


def reset(transport: Transport) -> None:
    """Ends a connection at once. What waits is thrown away: closing would leave it to the kernel, for hours."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
