"""The pages, /openapi.json and /docs."""

from __future__ import annotations

import hashlib
import html
import http.client
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import jsonschema_rs
import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image

from dragon.config import Config, load_config
from dragon.server.app import create_app
from dragon.server.openapi import build_document, component_name
from dragon.server.pages import STATIC, Pages, read_static
from dragon.server.reference import render_reference
from dragon.server.schema_words import bounds, type_of
from dragon.task import Registry, load_tasks
from tests.shell_examples import run_shell
from tests.system import MODULES, SECRET, System

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
SERVED = sorted(path.name for path in STATIC.iterdir() if path.suffix in TYPES)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_tasks(MODULES)


@pytest.fixture(scope="module")
def document(registry: Registry) -> dict[str, Any]:
    built: dict[str, Any] = orjson.loads(orjson.dumps(build_document(load_config(environ={}), registry)))
    return built


def get(system: System, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """GET with a path that nothing on the way makes tidy."""
    connection = http.client.HTTPConnection("127.0.0.1", system.config.server.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


# --- Files and pages --------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_pages_need() -> None:
    assert {"page.css", "page.js", "docs.css", "docs.js", "copy.js", "icon.svg", "sample.jpg"} <= set(SERVED)
    assert {path.suffix for path in STATIC.iterdir()} <= {*TYPES, ".html"}, "a kind of file that nobody serves"


@pytest.mark.parametrize("name", SERVED)
def test_every_static_file_is_served_unchanged_with_its_type(system: System, name: str) -> None:
    response, body = get(system, f"/static/{name}")
    assert response.status == 200
    assert response.headers["Content-Type"] == TYPES[Path(name).suffix]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] in ("no-cache", "public, max-age=86400")
    assert body == (STATIC / name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", *(f"/static/{name}" for name in SERVED)])
def test_what_a_browser_has_already_is_not_sent_again(system: System, path: str) -> None:
    etag = get(system, path)[0].headers["ETag"]
    response, body = get(system, path, **{"If-None-Match": f'"other", {etag}'})
    assert (response.status, body) == (304, b"")
    assert response.headers["ETag"] == etag
    response, body = get(system, path, **{"If-None-Match": '"other"'})
    assert response.status == 200
    assert etag == f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.js",
        "/static/index.html",
        "/static/docs.html",
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/..%2Fpages.py",
        "/static/%2e%2e/pages.py",
        "/static/%2e%2e%2fpages.py",
        "/static/..%5cpages.py",
        "/static/page.css%00",
        "/static/page.css%00.jpg",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css/",
        "/static/./page.css/../../pages.py",
        "/static/" + "x" * 5000,
        "//static/page.css",
    ],
)
def test_nothing_but_the_folders_files_can_be_reached(system: System, path: str) -> None:
    response, body = get(system, path)
    assert response.status == 404
    assert response.headers["Content-Type"].startswith("application/json")
    assert orjson.loads(body)["status"] == "error"


def test_the_table_of_files_has_no_templates(tmp_path: Path) -> None:
    for name in ("a.css", "b.html", "c.py"):
        (tmp_path / name).write_text(name)
    assert list(read_static(tmp_path)) == ["a.css"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_a_strict_policy_and_need_nothing_else(system: System, path: str) -> None:
    response, body = get(system, path)
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split(";"))
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert response.headers["Referrer-Policy"] == "same-origin"
    text = body.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", text), "something inline, which would not run"
    assert not re.search(r"\{\{\w+\}\}", text), "a place in the template that was not filled"
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", text):
        assert address.startswith(("/", "#")), f"{address} is somewhere else"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_every_link_of_the_pages_leads_somewhere(system: System, path: str) -> None:
    text = get(system, path)[1].decode()
    anchors = set(re.findall(r"""id=["']([^"']+)""", text))
    addresses = {html.unescape(found) for found in re.findall(r"""(?:src|href)=["']([^"']+)""", text)}
    assert addresses
    for address in addresses:
        if address.startswith("#"):
            assert address[1:] in anchors
        else:
            response, _ = get(system, address, Referer=f"{system.url}/")
            assert response.status in (200, 302), address


def test_the_sample_picture_is_of_several_megapixels_and_lies_on_its_side() -> None:
    with Image.open(STATIC / "sample.jpg") as picture:
        assert picture.width * picture.height >= 3_000_000
        assert picture.getexif()[0x0112] in (5, 6, 7, 8)
        assert picture.width < picture.height, "upright it is a landscape"


def test_the_page_knows_no_secret_but_the_demo_accounts(registry: Registry) -> None:
    public = Pages(load_config(environ={}, server__host="0.0.0.0"), registry)
    local = Pages(load_config(environ={}), registry)
    assert b"Secret 123456" in local._index.body
    assert b"Secret 123456" in local._docs.body
    for page in (public._index, public._docs, public._openapi):
        assert b"123456" not in page.body
        assert b"YOUR-SECRET-KEY" in page.body


def test_the_address_is_escaped_on_the_page(registry: Registry) -> None:
    pages = Pages(load_config(environ={}, server__public_url='http://x"><script>alert(1)</script>'), registry)
    for page in (pages._index, pages._docs):
        assert b"<script>alert" not in page.body


# --- OpenAPI ----------------------------------------------------------------------------------------------------------


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_an_invalid_description_would_be_noticed(document: dict[str, Any]) -> None:
    broken = document | {"paths": {"/x": {"get": {"responses": {"200": {"no description": ""}}}}}}
    assert not OpenAPIV31SpecValidator(broken).is_valid()


def test_every_schema_in_the_description_is_valid_json_schema(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema), name


def test_every_reference_in_the_description_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(_references(document))
    assert references
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        yield from value.get("discriminator", {}).get("mapping", {}).values()
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)


def test_every_component_is_used(document: dict[str, Any]) -> None:
    used = set(_references(document))
    for kind in ("schemas", "responses", "headers"):
        for name in document["components"][kind]:
            reachable = f"#/components/{kind}/{name}" in used or name.endswith((".parameters", ".result"))
            assert reachable, f"nobody refers to {kind}/{name}"


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def routes(config: Config) -> set[tuple[str, str]]:
    app = create_app(config, "redis://127.0.0.1:1")
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


def test_the_description_has_every_route_and_no_other(system: System, document: dict[str, Any]) -> None:
    described = {(method, path) for method, path, _ in operations(document)}
    assert described == routes(system.config)


def test_every_task_is_in_the_description_three_times(registry: Registry, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    mapping = schemas["TaskDefinition"]["discriminator"]["mapping"]
    assert mapping.keys() == registry.tasks.keys()
    for name in registry.tasks:
        component = component_name(name)
        assert mapping[name] == f"#/components/schemas/{component}"
        assert schemas[component]["properties"]["task_name"] == {"const": name}
        parameters = schemas[f"{component}.parameters"]["properties"]
        assert parameters.items() <= schemas[component]["properties"].items()
        assert f"{component}.result" in schemas


@pytest.mark.parametrize(
    ("definition", "fits"),
    [
        ({"task_name": "hello"}, True),
        ({"task_name": "hello", "name": "John", "task_metas": {"id": 1}}, True),
        ({"task_name": "hello", "nam": "John"}, False),
        ({"task_name": "countdown", "from": 5, "delay": 0.1}, True),
        ({"task_name": "countdown", "from": 0}, False),
        ({"task_name": "image.thumb"}, False),
        ({"task_name": "image.thumb", "url": "http://files.com/cat.jpg", "width": None, "format": "webp"}, True),
        ({"task_name": "nobody"}, False),
        ({}, False),
    ],
)
def test_definitions_are_described_as_the_server_takes_them(
    document: dict[str, Any], definition: dict[str, Any], fits: bool
) -> None:
    assert validator(document, "#/components/schemas/TaskDefinition").is_valid(definition) is fits


def validator(document: dict[str, Any], reference: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": reference, "components": document["components"]})


def test_nested_definitions_of_a_schema_move_to_the_components() -> None:
    from dragon.server.openapi.task_schemas import hoisted

    components: dict[str, Any] = {}
    schema = {
        "properties": {"a": {"$ref": "#/$defs/A"}, "b": [{"$ref": "#/$defs/A"}]},
        "$defs": {"A": {"type": "null"}},
    }
    moved = hoisted(schema, "task.x", components)
    there = {"$ref": "#/components/schemas/task.x.A"}
    assert moved == {"properties": {"a": there, "b": [there]}}
    assert components == {"task.x.A": {"type": "null"}}


# Method, path, body, whether with the secret key, and the expected status; KEY and FILE are keys of tasks that exist.
CALLS: list[tuple[str, str, Any, bool, int]] = [
    ("POST", "/v1/create", {"tasks": {"task_name": "hello"}}, True, 200),
    ("POST", "/v1/create", {"tasks": [{"task_name": "nobody"}, {"task_name": "hello"}], "block": "1"}, True, 200),
    ("POST", "/v1/create", {}, True, 400),
    ("POST", "/v1/create", {"tasks": {"task_name": "hello"}}, False, 401),
    ("POST", "/v1/create", {"tasks": "x" * (1 << 20)}, True, 413),
    ("PUT", "/v1/create", {}, True, 405),
    ("POST", "/v1/create_stream", {"tasks": [{"task_name": "hello"}]}, True, 200),
    ("POST", "/v1/create_stream", {"tasks": []}, True, 400),
    ("GET", "/v1/status?tasks=KEY&tasks=AAAAAAAAAAAAAAAAAAAAAAAAAA", None, False, 200),
    ("GET", "/v1/status?tasks=KEY&block=true&details=true", None, False, 200),
    ("GET", "/v1/status?tasks=x", None, False, 400),
    ("POST", "/v1/status", {"tasks": ["KEY"], "details": True}, False, 200),
    ("POST", "/v1/status", {"tasks": None}, False, 400),
    ("GET", "/v1/status_stream?tasks=KEY", None, False, 200),
    ("GET", "/v1/stream?tasks=KEY", None, False, 200),
    ("POST", "/v1/status_stream", {"tasks": "KEY"}, False, 200),
    ("POST", "/v1/stream", {"tasks": "KEY"}, False, 200),
    ("POST", "/v1/create_file", {"task": {"task_name": "test.file"}}, True, 302),
    ("POST", "/v1/create_file/x.txt", {"task": {"task_name": "test.task_error"}}, True, 404),
    ("POST", "/v1/create_file/medium", {"task": {"task_name": "test.two_files"}}, True, 404),
    ("POST", "/v1/create_file", {"task": {"task_name": "test.forgets_file"}}, True, 400),
    ("POST", "/v1/create_file", {}, True, 400),
    ("GET", "/v1/create_file?task_name=test.file&text=x", None, True, 302),
    ("GET", "/v1/create_file/x.txt?task_name=test.file&seconds=soon", None, True, 400),
    ("GET", "/v1/create_file/x.txt", None, True, 400),
    ("GET", "/v1/create_file/x.txt?task_name=test.file", None, False, 401),
    ("GET", "/v1/file?task=FILE", None, False, 302),
    ("GET", "/v1/file/x.txt?task=FILE", None, False, 302),
    ("GET", "/v1/file?task=AAAAAAAAAAAAAAAAAAAAAAAAAA", None, False, 404),
    ("GET", "/v1/file", None, False, 400),
    ("GET", "/files/FILE/output.txt", None, False, 200),
    ("GET", "/files/FILE/other.txt", None, False, 404),
    ("GET", "/v1/log?task=KEY&after=0", None, False, 200),
    ("GET", "/v1/log?task=KEY&follow=true", None, False, 200),
    ("GET", "/v1/log?task=AAAAAAAAAAAAAAAAAAAAAAAAAA", None, False, 404),
    ("GET", "/v1/log?task=KEY&after=soon", None, False, 400),
    ("GET", "/v1/tasks", None, False, 200),
    ("DELETE", "/v1/tasks/KEY", None, True, 200),
    ("DELETE", "/v1/tasks/x", None, True, 400),
    ("DELETE", "/v1/tasks/KEY", None, False, 401),
    ("DELETE", "/v1/tasks/AAAAAAAAAAAAAAAAAAAAAAAAAA", None, True, 404),
    ("GET", "/v1/operator/history?period=day&name=hello", None, True, 200),
    ("GET", "/v1/operator/history?period=week", None, True, 400),
    ("GET", "/v1/operator/history", None, False, 401),
    ("GET", "/v1/operator/account", None, True, 200),
    ("GET", "/v1/operator/account", None, False, 401),
    ("GET", "/v1/operator/overview", None, True, 200),
    ("GET", "/v1/operator/overview_stream", None, False, 401),
    ("GET", "/v1/operator/tasks?limit=5&text=hello", None, True, 200),
    ("GET", "/v1/operator/tasks?state=x", None, True, 400),
    ("GET", "/v1/operator/tasks_stream?limit=0", None, True, 400),
    ("GET", "/v1/operator/tasks/KEY", None, True, 200),
    ("GET", "/v1/operator/tasks/AAAAAAAAAAAAAAAAAAAAAAAAAA", None, True, 404),
    ("GET", "/v1/operator/failures", None, True, 200),
    ("POST", "/v1/operator/retry", {"tasks": ["KEY"]}, True, 200),
    ("POST", "/v1/operator/retry", {"group": "x"}, True, 400),
    ("POST", "/v1/operator/cancel", {"tasks": "KEY"}, True, 200),
    ("POST", "/v1/operator/queues/default", {"action": "resume"}, True, 200),
    ("POST", "/v1/operator/queues/nowhere", {"action": "resume"}, True, 404),
    ("GET", "/healthz", None, False, 200),
    ("GET", "/readyz", None, False, 200),
    ("GET", "/metrics", None, False, 200),
    ("GET", "/openapi.json", None, False, 200),
    ("GET", "/", None, False, 200),
    ("GET", "/docs", None, False, 200),
    ("GET", "/static/page.css", None, False, 200),
    ("GET", "/static/nothing", None, False, 404),
    ("GET", "/dashboard", None, False, 200),
    ("GET", "/dashboard/app.js", None, False, 200),
    ("GET", "/dashboard/nothing", None, False, 404),
    ("GET", "/v1/dragon.js", None, False, 200),
    ("GET", "/v1/dragon-elements.js", None, False, 200),
    ("GET", "/v1/dragon.d.ts", None, False, 200),
    ("GET", "/v1/tasks.d.ts", None, False, 200),
]


def test_the_calls_below_try_every_operation(document: dict[str, Any]) -> None:
    tried = {(method, matching_path(document, path)) for method, path, _, _, _ in CALLS if method != "PUT"}
    assert tried == {(method, path) for method, path, _ in operations(document)}


@pytest.fixture(scope="module")
def keys(system: System) -> dict[str, str]:
    """Keys of a finished task and of one that has a file."""
    body = orjson.dumps({"tasks": [{"task_name": "hello"}, {"task_name": "test.file"}], "block": True})
    connection = http.client.HTTPConnection("127.0.0.1", system.config.server.port, timeout=10)
    connection.request("POST", "/v1/create", body, SECRET)
    done, file = orjson.loads(connection.getresponse().read())
    connection.close()
    return {"KEY": done["key"], "FILE": file["key"]}


@pytest.mark.parametrize(("method", "path", "body", "with_key", "expected"), CALLS)
async def test_answers_are_as_described(
    system: System,
    document: dict[str, Any],
    keys: dict[str, str],
    method: str,
    path: str,
    body: Any,
    with_key: bool,
    expected: int,
) -> None:
    data = None if body is None else orjson.dumps(body)
    for name, key in keys.items():
        path = path.replace(name, key)
        data = data and data.replace(f'"{name}"'.encode(), f'"{key}"'.encode())
    headers = SECRET if with_key else {}
    async with (
        aiohttp.ClientSession(system.url) as session,
        session.request(
            method, path, data=data and io.BytesIO(data), headers=headers, allow_redirects=False
        ) as response,
    ):
        assert response.status == expected, await response.text()
        described = documented(document, "POST" if method == "PUT" else method, path)
        names = {parameter["name"] for parameter in described.get("parameters", ()) if parameter["in"] == "query"}
        assert set(parse_qs(urlsplit(path).query)) <= names or "parameters" in names
        answer = resolve(document, described["responses"][str(expected)])
        for name in set(answer.get("headers", ())) - {"Retry-After"}:
            assert name in response.headers
        check_body(document, answer, response.content_type, await response.read())


def matching_path(document: dict[str, Any], path: str) -> str:
    plain = urlsplit(path).path
    fitting = [
        known for known in document["paths"] if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(known)), plain)
    ]
    assert len(fitting) == 1, (path, fitting)
    return str(fitting[0])


def documented(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = document["paths"][matching_path(document, path)][method.lower()]
    return operation


def resolve(document: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in thing:
        found: Any = document
        for part in thing["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        thing = found
    return thing


def check_body(document: dict[str, Any], answer: dict[str, Any], content_type: str, body: bytes) -> None:
    content = answer.get("content")
    if content is None:
        assert body == b""
    elif "*/*" not in content:
        schema = content[content_type]["schema"]
        value = orjson.loads(body) if content_type == "application/json" else body.decode()
        jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]}).validate(value)


def test_the_examples_in_the_description_fit_their_schemas(document: dict[str, Any]) -> None:
    checked = 0
    for _, _, operation in operations(document):
        places = [operation.get("requestBody", {}), *operation["responses"].values()]
        for place in places:
            for content in resolve(document, place).get("content", {}).values():
                if "example" in content:
                    schema = content["schema"] | {"components": document["components"]}
                    jsonschema_rs.Draft202012Validator(schema).validate(content["example"])
                    checked += 1
    assert checked > 20


# --- The reference ----------------------------------------------------------------------------------------------------


def test_the_reference_names_every_route_and_every_task(system: System, registry: Registry) -> None:
    text = get(system, "/docs")[1].decode()
    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
    for method, path in routes(system.config):
        assert f"{method} {path}" in plain
    for name, task in registry.tasks.items():
        article = html.unescape(text.partition(f"id='task-{name.replace('_', '-')}'")[2].partition("</article>")[0])
        assert article, name
        for word in (*task.fields, *task.outputs):
            assert f"<code>{word}</code>" in article
        assert task.description.split("\n")[0].split("`")[0] in article


def test_the_reference_escapes_what_tasks_say(document: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>"
    schema = document["components"]["schemas"]["task.hello"]
    member = {"type": "string", "description": evil, "default": evil}
    changed = schema | {"description": evil, "properties": {"task_name": {"const": evil}, evil: member}}
    schemas = document["components"]["schemas"] | {"task.hello": changed}
    text = render_reference(document | {"components": document["components"] | {"schemas": schemas}})
    assert evil not in text
    assert html.escape(evil) in text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 95}, ("integer", "1 to 95")),
        (
            {"anyOf": [{"type": "integer", "exclusiveMinimum": 0, "maximum": 9}, {"type": "null"}]},
            ("integer", "1 to 9"),
        ),
        ({"type": "number", "exclusiveMinimum": 0}, ("number", "more than 0")),
        ({"type": "number", "minimum": 0.5}, ("number", "at least 0.5")),
        ({"type": "string", "format": "uri", "maxLength": 8192}, ("URL", "at most 8192 characters")),
        (
            {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 2, "maxItems": 500},
            ("list of URLs", "2 to 500 items"),
        ),
        ({"enum": ["jpeg", "png"]}, ("jpeg, png", "")),
        ({"enum": [0, 90], "minimum": 0}, ("0, 90", "")),
        ({"enum": [True, False, "true", "false", 1, 0]}, ("boolean", "")),
        ({}, ("any JSON value", "")),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, ("string or integer", "")),
    ],
)
def test_schemas_are_said_in_words(schema: dict[str, Any], words: tuple[str, str]) -> None:
    assert (type_of(schema), bounds(schema)) == words


def test_the_shell_lines_of_the_sample_page_work_as_they_stand(system: System, tmp_path: Path) -> None:
    text = get(system, "/")[1].decode()
    lines = [
        html.unescape(found) for found in re.findall(r"<pre data-copy tabindex=.0.><code>(.*?)</code>", text, re.S)
    ]
    outputs = [run_shell(line, tmp_path) for line in lines]
    assert [len(output.splitlines()) > 5 for output in outputs] == [True, False, False]
    assert [path.name for path in tmp_path.iterdir()] == ["thumb.jpg"]
