"""Frames survive being cut anywhere."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dragon.worker.messages import FrameBuffer, pack
from dragon.worker.pool import safe_environment

frames = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=10)


@settings(deadline=None)  # a machine that is busy with other tests may stall at any example
@given(frames, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    data = b"".join(pack(*frame) for frame in sent)
    buffer, received, step = FrameBuffer(), [], 0
    while data:
        size = sizes[step % len(sizes)]
        received += list(buffer.feed(data[:size]))
        data, step = data[size:], step + 1
    assert received == sent


def test_user_code_does_not_see_secrets_in_its_environment() -> None:
    given_environment = {"PATH": "p", "REDIS_URL": "r", "DRAGON_REDIS__URL": "r", "DRAGON_SECRET": "s", "HOME": "h"}
    assert set(safe_environment(given_environment)) == {"PATH", "HOME", "PYTHONPATH"}
