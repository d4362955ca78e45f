"""The JavaScript client as it is published (the folder js/), and the types of this server's tasks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from dragon.server.pages import Document
from dragon.server.typescript import declare_tasks
from dragon.task import Registry

FOLDER = Path(__file__).parent / "js"

_SCRIPT = "text/javascript; charset=utf-8"
_TYPES = "application/typescript; charset=utf-8"
_ASK_AGAIN = "no-cache"  # kept, and asked for with its ETag each time: client and server are of one version

#: Deno reads the types of a module from the place that this header names.
_TYPES_BESIDE = {"X-TypeScript-Types": "./dragon.d.ts"}

_FILES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "dragon.js": (_SCRIPT, _TYPES_BESIDE),
    "dragon-elements.js": (_SCRIPT, {}),
    "dragon.d.ts": (_TYPES, {}),
}


class ClientFiles:
    """Made once at start, answered from memory: a table, so that no name of a request ever becomes a path."""

    def __init__(self, registry: Registry) -> None:
        self._documents = {
            name: Document.make((FOLDER / name).read_bytes(), content_type, _ASK_AGAIN, extra)
            for name, (content_type, extra) in _FILES.items()
        }
        described = [registry.tasks[name].describe() for name in sorted(registry.tasks)]
        types = declare_tasks(described).encode()
        self._documents["tasks.d.ts"] = Document.make(types, _TYPES, _ASK_AGAIN)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"/v1/{name}", self.file) for name in self._documents]

    async def file(self, request: web.Request) -> web.Response:
        return self._documents[request.path.rpartition("/")[2]].answer(request)
