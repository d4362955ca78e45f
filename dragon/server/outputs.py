"""Output files at /files/KEY/NAME: never changing, resumable, and unable to act as the site."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from dragon.errors import NotFound
from dragon.files import Files
from dragon.server.answers import json_answer
from dragon.task import content_type_of

_GONE = "there is no such file, or its time is over"
_ERRORS = {
    412: (412, "the file is another one than If-Match or If-Unmodified-Since ask for"),
    416: (416, "the file has no such part, or the Range header asks for several: Content-Range tells its size"),
}


class Outputs:
    """Serves what the files' store has on this machine's disk."""

    def __init__(self, files: Files, life: int) -> None:
        """`life` in seconds: how long a file is kept at most."""
        self._files = files
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
        return _File(path, headers=self._headers | {"Content-Type": content_type_of(filename)})


class _File(web.FileResponse):
    """As aiohttp's, but what it cannot send is an error in the contract's shape, that no cache keeps."""

    _error = b""

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
