"""Output files at /files/KEY/NAME: never changing, resumable, and unable to act as the site."""

from __future__ import annotations

import re

from aiohttp import web

from dragon.errors import NotFound
from dragon.files import Files
from dragon.task import content_type_of

_PART_OF_PAGES = re.compile(r"script|text/css|text/xsl|xslt", re.IGNORECASE)  # javascript, ecmascript, jscript, ...


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
            raise NotFound("there is no such file, or its time is over")
        return web.FileResponse(path, headers=self._headers | {"Content-Type": _served_as(filename)})


def _served_as(filename: str) -> str:
    """The content type, but plain text for scripts and style sheets.

    They are on the address of the site's own pages, whose policy takes both from it: a stranger's tag in a page would
    make them the page's own. `sandbox` is for documents, it does not hold what others load.
    """
    found = content_type_of(filename)
    return "text/plain; charset=utf-8" if _PART_OF_PAGES.search(found) else found
