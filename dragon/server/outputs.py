"""Output files at /files/KEY/NAME: never changing, resumable, and unable to act as the site."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from dragon.errors import Full, NotFound
from dragon.files import Files
from dragon.server.answers import json_answer
from dragon.task import content_type_of

_PART_OF_PAGES = re.compile(r"script|text/css|text/xsl|xslt", re.IGNORECASE)  # javascript, ecmascript, jscript, ...
_GONE = "there is no such file, or its time is over"
_ERRORS = {
    412: (412, "the file is another one than If-Match or If-Unmodified-Since ask for"),
    416: (416, "the file has no such part, or the Range header asks for several: Content-Range tells its size"),
}


class Outputs:
    """Serves what the files' store has on this machine's disk."""

    def __init__(self, files: Files, life: int, most: int) -> None:
        """`life` in seconds: how long a file is kept at most. `most` files are open at once."""
        self._files = files
        self._most = most
        self._open = 0
        self._headers = {
            "Cache-Control": f"public, max-age={life}, immutable",
            # An SVG or HTML output is a stranger's document on our address: no scripts, no forms, an origin of its own.
            "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; "
            "style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/files/{key}/{filename:[^/]+}", self.file)]

    async def file(self, request: web.Request) -> web.StreamResponse:
        filename = request.match_info["filename"]
        path = self._files.find(request.match_info["key"], filename)
        if path is None:
            raise NotFound(_GONE)
        if self._open >= self._most:
            raise Full(f"this server is sending {self._most} files, and takes no more: try again")
        kind = _served_as(filename)
        headers = self._headers | {"Content-Type": kind}
        if kind == "application/pdf":
            # Chromium's viewer runs a PDF's own scripts, whatever the policy says: dialogs in the name of our address.
            headers["Content-Disposition"] = "attachment"
        return _Sent(self, path, headers=headers)

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Counts a file that is open."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class _Sent(web.FileResponse):
    """As aiohttp's, but it counts as open, and what it cannot send is an error in the contract's shape.

    aiohttp sends all of a file in `prepare`, and answers with 404 when it may not open one file more.
    """

    _error = b""

    def __init__(self, outputs: Outputs, path: Path, headers: dict[str, str]) -> None:
        super().__init__(path, headers=headers)
        self._outputs = outputs

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        with self._outputs.one_more():
            return await super().prepare(request)

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        if self.status >= 400:  # known only now: the file has been looked at in a thread
            status, text = _ERRORS.get(self.status, (404, _GONE))
            answer = json_answer({"status": "error", "message": text}, status)
            assert isinstance(answer.body, bytes)
            size = self.headers.get(hdrs.CONTENT_RANGE)
            self.headers.clear()
            self.headers.update(answer.headers)
            if size:
                self.headers[hdrs.CONTENT_RANGE] = size
            self.set_status(status)
            self.content_length = len(answer.body)
            self._error = b"" if request.method == hdrs.METH_HEAD else answer.body
        return await super()._start(request)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(self._error or data)


def _served_as(filename: str) -> str:
    """The content type, but plain text for scripts and style sheets.

    They are on the address of the site's own pages, whose policy takes both from it: a stranger's tag in a page would
    make them the page's own. `sandbox` is for documents, it does not hold what others load.
    """
    found = content_type_of(filename)
    return "text/plain; charset=utf-8" if _PART_OF_PAGES.search(found) else found
