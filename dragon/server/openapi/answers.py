"""Answers that many calls have, the headers in them, and the ways to show who asks."""

from __future__ import annotations

from typing import Any

from dragon.server.openapi.parts import answer, content, message, ref
from dragon.server.openapi.schemas import FAILED, PARAMETER_ERRORS, QUEUED

HEADERS: dict[str, Any] = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "Allow": "The methods that this path has.",
        "Content-Range": "The size of the file, `bytes */1234`.",
        "Cache-Control": "How long a browser may keep it; `no-store` on every error.",
        "ETag": "Send it back in `If-None-Match`.",
        "Location": "Where the output file is.",
        "Retry-After": "Seconds, where waiting helps.",
    }.items()
}

_STREAM_EXAMPLE = (
    '[{"status":"queued","key":"6GRQ3H5EHU7GXUTIOSS2GUDPGQ","events":{"queued":"2013-04-03T15:47:27.703674+00:00"}}]\n'
    '{"status":"success","key":"6GRQ3H5EHU7GXUTIOSS2GUDPGQ","events":{"queued":"2013-04-03T15:47:27.703674+00:00",'
    '"started":"2013-04-03T15:47:27.707526+00:00","completed":"2013-04-03T15:47:27.726229+00:00"},'
    '"result":"Hello John"}\n'
)

RESPONSES: dict[str, Any] = {
    "Statuses": answer(
        "A list of statuses, in the order of `tasks`.",
        content({"type": "array", "items": ref("Status")}, example=[QUEUED]),
    ),
    "Stream": answer(
        "First a line with the list of the immediate statuses, in order; then a line for each update of any of them; "
        "the body ends when all are final. A line always holds the full status. In silence a space is sent now and "
        "then: leading white space of the next line. With `Accept: text/event-stream` the same lines come as `data:` "
        "of server-sent events.",
        content({"type": "string"}, "application/x-ndjson", _STREAM_EXAMPLE)
        | content({"type": "string"}, "text/event-stream"),
    ),
    "ToFile": answer(
        "To the output file; or, when that takes long, to `/v1/file`, which waits on.",
        headers=["Location", "Cache-Control"],
    ),
    "BadRequest": answer(
        "The request is wrong: all its errors at once.",
        content(ref("ParameterErrors"), example=PARAMETER_ERRORS["examples"][0]),
    ),
    "BadRequestOrFailedTask": answer(
        "The request is wrong, or the task ended in an error: then its status.",
        content({"anyOf": [ref("ParameterErrors"), ref("Status")]}, example=FAILED),
    ),
    "Unauthorized": message(
        "Credentials are missing or wrong, or a limit of the account is reached; the message says which.",
        "the page http://example.com is not on the account's whitelist",
        ["Retry-After"],
    ),
    "FilenameError": message(
        "The task has no output file of that name. Known before anything is queued.",
        "'medium' is not a valid filename, choose one of: 'small', 'large'",
    ),
    "UnknownKey": message("Nobody knows the key, or its time is over.", "unknown task key"),
    "UnknownKeyOrFilename": message("The key is not known, or the filename not valid.", "unknown task key"),
    "NoSuchFile": message("There is no such file, or its time is over.", "there is no such file"),
    "Changed": message(
        "`If-Match` or `If-Unmodified-Since` ask for another file.",
        "the file is another one than If-Match or If-Unmodified-Since ask for",
    ),
    "NoSuchPart": message(
        "The file has no such part.",
        "the file has no such part, or the Range header asks for several: Content-Range tells its size",
        ["Content-Range"],
    ),
    "MethodNotAllowed": message("This path has other methods.", "PUT is not allowed here, use GET", ["Allow"]),
    "TooLarge": message(
        "The body is too large.", "the request body is larger than 1048576 bytes: send several smaller requests"
    ),
    "TooSlow": message(
        "The request did not come to its end in time, or its body too slowly; the connection is closed.",
        "the head of the request was not whole within 20 seconds",
    ),
    "Full": message(
        "This process has as many connections open as it may.",
        "this server has 20000 connections open, and takes no more: try again",
        ["Retry-After"],
    ),
    "InternalError": message("A defect of dragon's.", "internal error, the log has it under reference 1f9a0c3e"),
    "Unavailable": message(
        "Redis cannot be reached, or this process has as many connections, streams, followed tasks or files open as it "
        "may. Nothing was created.",
        "Redis cannot be reached",
        ["Retry-After"],
    ),
    "NotModified": answer("You have it already.", headers=["ETag", "Cache-Control"]),
}

SECURITY_SCHEMES: dict[str, Any] = {
    "secretHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Secret KEY`. For servers; never in a page. Or `secret` in the body.",
    },
    "apiKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Api-Key KEY`, and the page in Origin or Referer. Or `api_key` in the body.",
    },
    "secretQuery": {"type": "apiKey", "in": "query", "name": "secret", "description": "A secret key."},
    "apiKeyQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "api_key",
        "description": "An api key, and the page in Origin or Referer: for <img>.",
    },
}

# The empty one: credentials may stand in the body, which OpenAPI cannot say, or (GET) be a signature, or not be needed
# by an account that allows images without a key.
BY_HEADER: list[dict[str, list[str]]] = [{"secretHeader": []}, {"apiKeyHeader": []}]
BY_HEADER_OR_BODY = [*BY_HEADER, {}]
ANYWHERE = [*BY_HEADER, {"secretQuery": []}, {"apiKeyQuery": []}, {}]
