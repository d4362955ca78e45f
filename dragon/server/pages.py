"""The pages that people see, and the API's description for machines: made once at start, answered from memory."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from dragon.config import Config
from dragon.errors import NotFound
from dragon.server.openapi import EXAMPLE_KEY, build_document, demo_secret
from dragon.server.reference import render_reference
from dragon.task import Registry, content_type_of

STATIC = Path(__file__).parent / "static"

# What /static/ serves. The .html files beside them are templates and have paths of their own.
_STATIC_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": content_type_of("x.jpg"),
    ".svg": content_type_of("x.svg"),
}
_PICTURES = frozenset({".jpg", ".svg"})
_HTML = "text/html; charset=utf-8"

_ASK_AGAIN = "no-cache"  # kept, and asked for with its ETag each time: an upgrade is seen at once
_FOR_A_DAY = "public, max-age=86400"

# Everything on the pages comes from this server, and nothing is inline. `same-origin` lets the sample <img>, which has
# no key, carry the Referer that it counts by, and tells no other site where a reader came from.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}

_SHELL = {
    "curl_stream": "curl -N {address}/v1/create_stream -H 'Authorization: Secret {secret}' \\\n"
    """  -d '{{"tasks": [{{"task_name": "hello", "name": "you"}}, {{"task_name": "countdown"}}]}}'""",
    "curl_status": "KEY=$(curl -s {address}/v1/create -H 'Authorization: Secret {secret}' \\\n"
    """  -d '{{"tasks": {{"task_name": "countdown"}}}}' | grep -o '[A-Z2-7]\\{{26\\}}')\n"""
    """curl "{address}/v1/status?tasks=$KEY&block=true\"""",
    "curl_file": """curl -L -o thumb.jpg -H 'Authorization: Secret {secret}' \\\n"""
    """  "{address}/v1/create_file/thumb.jpg?task_name=image.thumb&width=480&url={address}/static/sample.jpg\"""",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A body that never changes while the server runs, with the headers that say so."""

    body: bytes
    headers: Mapping[str, str]
    etag: str  # without quotes

    @classmethod
    def make(cls, body: bytes, content_type: str, cache: str, extra: Mapping[str, str] | None = None) -> Document:
        etag = hashlib.sha256(body).hexdigest()[:32]
        headers = {
            "Cache-Control": cache,
            "Content-Type": content_type,
            "ETag": f'"{etag}"',
            "X-Content-Type-Options": "nosniff",
        }
        return cls(body, headers | dict(extra or {}), etag)

    def answer(self, request: web.Request) -> web.Response:
        """The body, or 304 for a client that has it already."""
        if any(tag.value in (self.etag, "*") for tag in request.if_none_match or ()):
            kept = {name: value for name, value in self.headers.items() if name != "Content-Type"}
            return web.Response(status=304, headers=kept)
        return web.Response(body=self.body, headers=self.headers)


class Pages:
    """The sample page, /docs, /openapi.json and what they need."""

    def __init__(self, config: Config, registry: Registry) -> None:
        description = build_document(config, registry)
        # The catalogue in the description is sorted here, so that every process of a server gives the same ETag.
        self._openapi = Document.make(orjson.dumps(description), "application/json", _ASK_AGAIN)
        self._index = page(fill(STATIC / "index.html", _index_values(config)))
        self._docs = page(fill(STATIC / "docs.html", _docs_values(config, description)))
        self._static = read_static(STATIC)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.index),
            web.get("/docs", self.docs),
            web.get("/openapi.json", self.openapi),
            web.get("/static/{name}", self.static),
        ]

    async def index(self, request: web.Request) -> web.Response:
        return self._index.answer(request)

    async def docs(self, request: web.Request) -> web.Response:
        return self._docs.answer(request)

    async def openapi(self, request: web.Request) -> web.Response:
        return self._openapi.answer(request)

    async def static(self, request: web.Request) -> web.Response:
        document = self._static.get(request.match_info["name"])
        if document is None:
            raise NotFound("there is no such file")
        return document.answer(request)


def read_static(folder: Path) -> dict[str, Document]:
    """What /static/ serves, by name: a table, so that no name of a request ever becomes a path."""
    return {path.name: _static_document(path) for path in sorted(folder.iterdir()) if path.suffix in _STATIC_TYPES}


def _static_document(path: Path) -> Document:
    cache = _FOR_A_DAY if path.suffix in _PICTURES else _ASK_AGAIN
    # An SVG that is opened by itself is a document on our address.
    sandbox = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'"}
    return Document.make(
        path.read_bytes(), _STATIC_TYPES[path.suffix], cache, sandbox if path.suffix == ".svg" else None
    )


def page(text: str) -> Document:
    """An HTML page of ours, with the policy that all of them have."""
    return Document.make(text.encode(), _HTML, _ASK_AGAIN, _PAGE_HEADERS)


def fill(template: Path, values: Mapping[str, str]) -> str:
    """Puts HTML into the {{places}} of a template; a place without a value is a KeyError at start."""
    text = template.read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], text)


def _docs_values(config: Config, description: Mapping[str, Any]) -> dict[str, str]:
    # Only the demo account's key, which everybody knows, ever stands in a page; elsewhere the reader types one.
    demo = demo_secret(config) if config.listens_on_loopback else ""
    return {"reference": render_reference(description), "demo_secret": demo, "example_key": EXAMPLE_KEY}


def _index_values(config: Config) -> dict[str, str]:
    known = {"address": config.public_url, "secret": demo_secret(config)}
    shell = {name: line.format(**known) for name, line in _SHELL.items()}
    return {name: html.escape(text) for name, text in (known | shell).items()}
