"""The doctor's look at the way to a server: what a proxy does to streams, headers, methods and bodies."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from dragon.cli.access import DEMO_SECRET, is_here
from dragon.cli.doctor.exchange import Answer, Exchange, Stream, lines_of
from dragon.cli.doctor.finding import Finding

#: The countdown by which buffering is measured: so many lines, so many seconds apart.
COUNT, DELAY = 6, 0.25
#: Seconds within which lines count as arrived together.
TOGETHER = 0.04
#: Seconds between two signs of the countdown that is followed as a quiet stream.
QUIET = 10
NO_LINES = 1_000_000_000  # the number of a log line that no task comes to
#: Seconds without a byte after which a stream's heartbeats (server.heartbeat, 15 s) must have been held back.
SILENCE = 25.0
#: A page that stands on nobody's whitelist, so that the 401 names it (RFC 2606).
PAGE = "https://doctor.example"
NOT_A_KEY = "this-is-not-a-key"
#: Bytes of a body that dragon takes by itself (server.max_body_bytes is 1 MiB).
BODY = (1 << 20) - 4096
NEEDS_SECRET = "needs a secret key: DRAGON_SECRET, or --secret-file"  # noqa: S105
_CORS = "Access-Control-Allow-Origin"


def examine(exchange: Exchange, secret: str | None, api_key: str | None, idle: float) -> Iterator[Finding]:
    """Everything that can be looked at through the way; `idle` in seconds, 0 leaves that out."""
    reached = _reach(exchange)
    yield reached
    if reached.level == "problem":
        return
    ready = _ready(exchange)
    yield ready
    missing = NEEDS_SECRET if ready.level == "ok" else "the server is not ready, and this runs a task"
    looks = _TASKS | ({"idle": partial(_idle, seconds=idle)} if idle else {})
    for about, look in looks.items():
        if secret is None or ready.level != "ok":
            yield Finding("skipped", about, missing)
        else:
            yield from _guarded(partial(look, exchange, secret))
    for other in _REQUESTS:
        yield from _guarded(partial(other, exchange, api_key))


def _guarded(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A connection that breaks is a finding too, and the other looks go on."""
    try:
        yield from look()
    except (OSError, http.client.HTTPException, ValueError) as error:
        yield Finding("problem", "connection", f"it broke while the doctor looked: {_told(error)}")


def _brief(message: str) -> str:
    """A message of dragon's without what it explains behind the first colon."""
    return message.partition(": send ")[0]


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reach(exchange: Exchange) -> Finding:
    try:
        answer = exchange.ask("GET", "/healthz")
    except ssl.SSLCertVerificationError as error:
        sentence = f"the certificate of {exchange.host} is not trusted ({error.verify_message}): renew or correct it"
        return Finding("problem", "server", sentence)
    except (OSError, http.client.HTTPException) as error:
        return Finding(
            "problem", "server", f"{exchange.url} cannot be reached ({_told(error)}): does dragon run there?"
        )
    told = answer.json
    if answer.status != 200 or not isinstance(told, dict) or "version" not in told:
        sentence = f"{exchange.url}/healthz answers {answer.status} and not as dragon does: is it dragon's address?"
        return Finding("problem", "server", sentence)
    return Finding("ok", "server", f"dragon {told['version']} answers at {exchange.url}")


# --- What every answer shows ------------------------------------------------------------------------------------------


def _ready(exchange: Exchange) -> Finding:
    try:
        answer = exchange.ask("GET", "/readyz")
    except (OSError, http.client.HTTPException) as error:
        return Finding("problem", "ready", f"/readyz is not answered: {_told(error)}")
    if answer.status == 200:
        return Finding("ok", "ready", "Redis answers, and a worker is there")
    return Finding("problem", "ready", answer.message or f"/readyz answers {answer.status}")


def _version_upstream(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    told = exchange.ask("GET", "/healthz").json
    version = told.get("http") if isinstance(told, dict) else None
    if version is None:
        yield Finding("skipped", "http", "this server does not tell by which version of HTTP it is asked")
    elif version == "1.0":
        sentence = "the proxy asks dragon by HTTP/1.0: a stream that is cut looks whole, and each call is a connection"
        yield Finding("problem", "http", sentence, "http10")
    else:
        yield Finding("ok", "http", f"dragon is asked by HTTP/{version}")


def _cors(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    wrong = _wrong_secret(exchange)
    for what, answer in (("an answer", exchange.ask("GET", "/v1/tasks", {"Origin": PAGE})), ("a 401", wrong)):
        problem = _judge_origins(what, answer.headers.get_all(_CORS, []))
        if problem:
            yield problem
            break
    else:
        yield Finding("ok", "cors", f"{_CORS}: * is there, once")
    yield _preflight(exchange)


def _judge_origins(what: str, values: Sequence[str]) -> Finding | None:
    allowed = [value.strip() for line in values for value in line.split(",")]
    if allowed == ["*"]:
        return None
    if not allowed:
        return Finding("problem", "cors", f"{what} has no {_CORS}: browsers keep it from the page", "cors")
    if len(allowed) > 1:
        sentence = f"{what} has {len(allowed)} values of {_CORS} ({', '.join(allowed)}): browsers refuse it"
        return Finding("problem", "cors", sentence, "cors")
    return Finding("warning", "cors", f"{what} allows the origin {allowed[0]}, and dragon says *", "cors")


def _preflight(exchange: Exchange) -> Finding:
    wanted = "authorization, content-type, idempotency-key"
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
    }
    answer = exchange.ask("OPTIONS", "/v1/create", headers)
    if answer.status not in (200, 204):
        sentence = f"OPTIONS /v1/create answers {answer.status}: no page of another site can send a key"
        return Finding("problem", "preflight", sentence, "preflight")
    allowed = {name.strip().lower() for name in answer.headers.get("Access-Control-Allow-Headers", "").split(",")}
    missing = [name for name in wanted.split(", ") if name not in allowed]
    if missing:
        sentence = f"the answer to OPTIONS does not allow {', '.join(missing)}"
        return Finding("problem", "preflight", sentence, "preflight")
    wrong = _judge_origins("the answer to OPTIONS", answer.headers.get_all(_CORS, []))
    if wrong and wrong.level == "problem":
        return Finding("problem", "preflight", wrong.sentence, "preflight")
    return Finding("ok", "preflight", "is answered")


def _head(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    answer = exchange.ask("HEAD", "/v1/tasks")
    if answer.status == 200:
        yield Finding("ok", "head", "HEAD arrives")
    else:
        yield Finding("problem", "head", f"HEAD /v1/tasks answers {answer.status}, where dragon says 200", "head")


# --- What is sent -----------------------------------------------------------------------------------------------------


def _wrong_secret(exchange: Exchange, body: bytes = b'{"tasks": []}') -> Answer:
    """Creates nothing: the key is none."""
    return exchange.ask("POST", "/v1/create", {"Authorization": f"Secret {NOT_A_KEY}", "Origin": PAGE}, body)


def _authorization(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    answer = _wrong_secret(exchange)
    if answer.status == 401 and answer.message == "unknown secret key":
        yield Finding("ok", "authorization", "the header arrives")
    elif answer.status == 401 and answer.message:
        sentence = f"a secret key in the Authorization header does not arrive; dragon says: {_brief(answer.message)}"
        yield Finding("problem", "authorization", sentence, "authorization")
    else:
        sentence = f"a wrong key is answered with {answer.status} and not by dragon's 401: something else asks for keys"
        yield Finding("problem", "authorization", sentence, "authorization")


def _pages(exchange: Exchange, api_key: str | None) -> Iterator[Finding]:
    for header in ("Origin", "Referer"):
        yield _page(exchange, header, api_key)


def _page(exchange: Exchange, header: str, api_key: str | None) -> Finding:
    """Whether the header that tells a page arrives: the 401 names the page that was received."""
    without_key = exchange.ask("GET", "/v1/create_file?task_name=hello", {header: PAGE})
    about = header.lower()
    if PAGE in without_key.message:
        return Finding("ok", about, "the header arrives")
    if api_key is None:
        sentence = "no account here allows images without a key: set DRAGON_API_KEY to an api key of yours"
        return Finding("skipped", about, sentence)
    body = json.dumps({"api_key": api_key, "tasks": []}).encode()
    message = exchange.ask("POST", "/v1/create", {header: PAGE}, body).message
    if PAGE in message:
        return Finding("ok", about, "the header arrives")
    if message == "unknown api key":
        return Finding("skipped", about, "dragon does not know the api key of DRAGON_API_KEY")
    if "header" in message or "page" in message:
        sentence = f"{header}: {PAGE} was sent and did not arrive, so no api key counts; dragon says: {_brief(message)}"
        return Finding("problem", about, sentence, about)
    return Finding("skipped", about, f"dragon says: {message or 'nothing'}")


def _body(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    padded = b'{"tasks": []' + b" " * BODY + b"}"
    sentence = f"a body of {len(padded):,} bytes does not get through"
    try:
        answer = _wrong_secret(exchange, padded)
    except (OSError, http.client.HTTPException) as error:
        yield Finding("problem", "body", f"{sentence}: {_told(error)}", "body")
        return
    if answer.status == 413 and answer.message:
        yield Finding("ok", "body", f"dragon's own limit: {answer.message}")
    elif not answer.message:
        yield Finding("problem", "body", f"{sentence}: {answer.status}, and not from dragon", "body")
    else:
        yield Finding("ok", "body", f"{len(padded):,} bytes get through")


def _demo(exchange: Exchange, _api_key: str | None) -> Iterator[Finding]:
    if is_here(exchange.url):
        return
    answer = exchange.ask("POST", "/v1/create", {"Authorization": f"Secret {DEMO_SECRET}"}, b'{"tasks": []}')
    if answer.status == 400:  # let in, and then no task
        sentence = (
            "the demo account works here, and everybody knows its keys: `dragon account new NAME`, and `dragon account "
            "revoke demo`"
        )
        yield Finding("problem", "demo account", sentence)
    else:
        yield Finding("ok", "demo account", "its keys do not work here")


# --- Streams ----------------------------------------------------------------------------------------------------------


def _streams(exchange: Exchange, secret: str) -> Iterator[Finding]:
    """A countdown, asked for as browsers do: do its lines come one by one, and as they were sent?"""
    stream = _countdown(exchange, secret, {"Accept-Encoding": "gzip"})
    encoding = stream.headers.get("Content-Encoding", "")
    if encoding:
        sentence = f"the proxy packs streams ({encoding}), and holds lines back for it"
        yield Finding("problem", "compression", sentence, "compresses")
    else:
        yield Finding("ok", "compression", "streams are not packed")
    found = _judge_arrivals(exchange, stream, secret)
    if found.fault == "buffers":  # or the machines were busy: what holds lines back does so each time
        found = _judge_arrivals(exchange, _countdown(exchange, secret, {"Accept-Encoding": "gzip"}), secret)
    yield found


def _countdown(exchange: Exchange, secret: str, headers: dict[str, str]) -> Stream:
    definition = {"task_name": "countdown", "from": COUNT, "delay": DELAY}
    return exchange.stream("POST", "/v1/create_stream", headers, _creation(secret, definition))


def _creation(secret: str, definition: dict[str, Any], **members: Any) -> bytes:
    """A body with the key in it: the header may be one of the things that do not get through."""
    return json.dumps({"secret": secret, "tasks": definition, **members}).encode()


def _judge_arrivals(exchange: Exchange, stream: Stream, secret: str) -> Finding:
    if stream.status != 200:
        refusal = Answer(stream.status, stream.headers, b"".join(piece.data for piece in stream.pieces))
        sentence = f"create_stream answers {stream.status}: {_brief(refusal.message) or 'and not from dragon'}"
        return Finding("skipped", "buffering", sentence)
    arrived: list[tuple[float, Any]] = []
    try:
        arrived.extend(lines_of(stream.pieces))
    except TimeoutError:
        _cancel(exchange, _last_status(arrived).get("key"), secret)
        sentence = "the countdown did not come to its end: is there a worker, and is it free?"
        return Finding("skipped", "buffering", sentence)
    last = _last_status(arrived)
    if last.get("status") == "error":
        return Finding("skipped", "buffering", f"the countdown ended in an error: {_short(last.get('result'))}")
    if last.get("status") != "success":
        sentence = f"a stream ended before its task did, after {len(arrived)} lines"
        return Finding("problem", "buffering", sentence, "idle")
    return judge_moments([moment for moment, _ in arrived])


def _cancel(exchange: Exchange, key: str | None, secret: str) -> None:
    if key is not None:
        exchange.ask("DELETE", f"/v1/tasks/{key}", {"Authorization": f"Secret {secret}"})


def _last_status(arrived: Sequence[tuple[float, Any]]) -> dict[str, Any]:
    """The first line is a list of statuses, the others are one each."""
    last = arrived[-1][1] if arrived else {}
    found: dict[str, Any] = last[-1] if isinstance(last, list) else last
    return found


def _short(line: Any) -> str:
    return json.dumps(line)[:200]


def judge_moments(moments: Sequence[float]) -> Finding:
    """From when the lines of a countdown arrived, in seconds."""
    span = moments[-1] - moments[0]
    arrivals = 1 + sum(later - earlier > TOGETHER for earlier, later in itertools.pairwise(moments))
    took = COUNT * DELAY
    if span < took / 2:
        sentence = f"the {len(moments)} lines of a stream came together, {moments[-1]:.1f} s after they were asked for"
        return Finding("problem", "buffering", sentence, "buffers")
    if arrivals <= COUNT // 2:
        sentence = f"the {len(moments)} lines of a stream came in {arrivals} lots: something on the way gathers them"
        return Finding("problem", "buffering", sentence, "buffers")
    return Finding("ok", "buffering", f"the lines of a stream come one by one ({arrivals} arrivals in {span:.1f} s)")


def _idle(exchange: Exchange, secret: str, seconds: float) -> Iterator[Finding]:
    """Follows a task that hardly says anything: its log lines, of which there are none, or else its statuses."""
    definition = {"task_name": "countdown", "from": min(1000, math.ceil(seconds / QUIET) + 2), "delay": QUIET}
    created = exchange.ask("POST", "/v1/create", body=_creation(secret, definition))
    if created.status != 200:
        yield Finding("skipped", "idle", f"create answers {created.status}: {_brief(created.message)}")
        return
    key = created.json[0]["key"]
    try:
        yield _judge_idle(_quiet_stream(exchange, key), seconds)
    finally:
        _cancel(exchange, key, secret)


def _quiet_stream(exchange: Exchange, key: str) -> Stream:
    """The log lines of a task from where it has none; of a server that keeps no log, its statuses."""
    stream = exchange.stream("GET", f"/v1/log?task={key}&after={NO_LINES}&follow=true", timeout=SILENCE)
    if stream.status == 200:
        return stream
    list(stream.pieces)  # read to its end, so that its connection is closed
    return exchange.stream("GET", f"/v1/status_stream?tasks={key}", timeout=SILENCE)


def _judge_idle(stream: Stream, seconds: float) -> Finding:
    """Reads until the time is over; the heartbeats see to it that there is something to read."""
    started = last = time.monotonic()
    longest, reason = 0.0, "it ended"
    try:
        for _ in stream.pieces:
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            if now - started >= seconds:
                sentence = f"a quiet stream stays for {seconds:g} s (nothing came for {longest:.1f} s at most)"
                return Finding("ok", "idle", sentence)
    except TimeoutError:
        sentence = f"not a byte of a quiet stream came for {SILENCE:g} s: its heartbeats are held back"
        return Finding("problem", "idle", sentence, "buffers")
    except (OSError, http.client.HTTPException) as error:
        reason = _told(error)
    lived = time.monotonic() - started
    return Finding("problem", "idle", f"a quiet stream was cut after {lived:.1f} s ({reason})", "idle")


# --- Files ------------------------------------------------------------------------------------------------------------


def _files(exchange: Exchange, secret: str) -> Iterator[Finding]:
    """A thumbnail of dragon's own sample: does its URL lead back here, and can a part of it be had?"""
    status = _thumbnail(exchange, secret)
    if status.get("status") in ("queued", "executing"):
        _cancel(exchange, status.get("key"), secret)
    if status.get("status") != "success":
        sentence = f"no output file could be made to look at: {_short(status.get('result'))}"
        yield Finding("skipped", "files", sentence)
        return
    url = urlsplit(status["result"]["output"])
    named = f"{url.scheme}://{url.netloc}"
    if named == exchange.origin:
        yield Finding("ok", "files", f"results name them at {named}")
    else:
        sentence = (
            f"results name them at {named}, and not at {exchange.origin}: dragon's setting server.public_url is to be "
            "the address that clients use"
        )
        yield Finding("warning", "files", sentence)
    yield _range(exchange, url.path)


def _thumbnail(exchange: Exchange, secret: str) -> dict[str, Any]:
    """The status of a task with an output file. A server may fetch from itself, under the address that it knows."""
    described = exchange.ask("GET", "/openapi.json").json
    own = described["servers"][0]["url"] if isinstance(described, dict) and described.get("servers") else exchange.url
    definition = {"task_name": "image.thumb", "width": 32, "url": f"{own}/static/sample.jpg"}
    body = _creation(secret, definition, block=True, timeout=15)
    statuses = exchange.ask("POST", "/v1/create", body=body).json
    found = statuses[0] if isinstance(statuses, list) and statuses else {"result": statuses}
    return found if isinstance(found, dict) else {}


def _range(exchange: Exchange, path: str) -> Finding:
    part = exchange.ask("GET", path, {"Range": "bytes=2-11"})
    if part.status == 206 and len(part.body) == 10:
        return Finding("ok", "range", "a part of a file can be had")
    sentence = f"ten bytes of a file were asked for, the answer is {part.status} with {len(part.body):,}"
    return Finding("problem", "range", sentence, "range")


#: What runs tasks.
_TASKS: dict[str, Callable[[Exchange, str], Iterator[Finding]]] = {"streams": _streams, "files": _files}
_REQUESTS: tuple[Callable[[Exchange, str | None], Iterator[Finding]], ...] = (
    _version_upstream,
    _cors,
    _authorization,
    _pages,
    _body,
    _head,
    _demo,
)
