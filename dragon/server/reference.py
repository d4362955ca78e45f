"""The API reference as HTML, for /docs, from the same document that machines get at /openapi.json.

Whatever comes from the document is escaped: task descriptions are their authors' text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dragon.server.highlight import highlight
from dragon.server.schema_words import bounds, default_of, description_of, parameters_of, type_of
from dragon.server.tryit import call_form, task_form

_E = html.escape

_STATUS_TEXTS = {"200": "OK", "204": "No content", "206": "Part", "302": "Redirect", "304": "Not modified"}

_CLIENTS = """\
The examples in JavaScript are for a page on the account's whitelist; a program in Node gives `secret` instead of \
`apiKey`. Both clients take up a stream that was cut, lose no status and create no task twice.
"""


def render_reference(document: Mapping[str, Any]) -> str:
    """The contents of the page: a list of contents, the calls by tag, the tasks."""
    return _Reference(document).html()


class _Reference:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]
        self._calls = {tag["name"]: list(_calls(document["paths"], tag["name"])) for tag in document["tags"]}
        self._tasks = [schema for schema in self._schemas.values() if "x-task" in schema]

    def html(self) -> str:
        return (
            f"{self._contents()}\n<div class='reference'>\n{self._intro()}{self._all_calls()}{self._all_tasks()}</div>"
        )

    # --- The list of contents ---

    def _contents(self) -> str:
        groups = "".join(
            f"<section><h2><a href='#{_anchor(tag)}'>{_E(tag.capitalize())}</a></h2>"
            f"<ul>{''.join(map(_contents_line, calls))}</ul></section>"
            for tag, calls in self._calls.items()
        )
        tasks = "".join(
            f"<li data-words='{_E(_words(schema['description'], parameters_of(schema)))}'>"
            f"<a href='#{_task_anchor(name)}'>{_E(name)}</a></li>"
            for name, schema in ((_task_name(schema), schema) for schema in self._tasks)
        )
        return (
            "<nav class='contents' aria-label='Contents'>"
            "<button class='menu' type='button' aria-expanded='false' aria-controls='contents' hidden>Contents</button>"
            "<div id='contents'><div class='filter' hidden><label for='filter'>Filter</label>"
            "<input id='filter' type='search' placeholder='Filter' autocomplete='off' spellcheck='false'>"
            "<kbd title='Press / to filter'>/</kbd></div><p class='nothing' role='status'></p>"
            f"{groups}<section><h2><a href='#tasks'>Tasks</a></h2><ul>{tasks}</ul></section></div></nav>"
        )

    # --- Calls ---

    def _intro(self) -> str:
        about = _paragraphs(f"{self._document['info']['description']}\n\n{_CLIENTS}")
        return f"<section class='intro' id='start'>{about}</section>\n"

    def _all_calls(self) -> str:
        return "".join(
            f"<section class='group'><h2 id='{_anchor(tag['name'])}'>{_E(tag['name'].capitalize())}</h2>"
            f"{_paragraphs(tag['description'])}" + "".join(map(self._call, self._calls[tag["name"]])) + "</section>"
            for tag in self._document["tags"]
        )

    def _call(self, call: _Call) -> str:
        operation = call.operation
        paths = "".join(f"<li>{_method(call.method)} {_path(path)}</li>" for path in call.paths)
        about = (
            _paragraphs(operation["description"]) + self._parameters(operation) + self._answers(operation["responses"])
        )
        trial = call_form(call.anchor, call.method, call.paths, operation, _body_example(operation))
        return _article(
            call.anchor,
            f"{_E(operation['summary'])}",
            f"<ul class='paths'>{paths}</ul>",
            about,
            _examples(call.samples) + (trial if call.samples else ""),
        )

    def _parameters(self, operation: Mapping[str, Any]) -> str:
        rows = [
            _row(item["name"], item["in"], item["schema"], item.get("description", ""), item.get("required", False))
            for item in operation.get("parameters", ())
        ]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            rows += _member_rows(self._resolve(content["schema"]), "body")
        return f"<h4>Parameters</h4>{_table(('Parameter', 'What'), rows)}" if rows else ""

    def _answers(self, responses: Mapping[str, Any]) -> str:
        """What comes when all goes well is open, the errors fold."""
        items = {code: self._answer(code, given) for code, given in responses.items()}
        good = "".join(item for code, item in items.items() if code < "400")
        bad = {code: item for code, item in items.items() if code >= "400"}
        codes = " ".join(f"<b class='code bad'>{_E(code)}</b>" for code in bad)
        return (
            f"<h4>Answers</h4><ul class='answers'>{good}</ul>"
            f"<details class='errors'><summary>Errors {codes}</summary>"
            f"<ul class='answers'>{''.join(bad.values())}</ul></details>"
        )

    def _answer(self, code: str, given: Mapping[str, Any]) -> str:
        response = self._resolve(given)
        meaning = _STATUS_TEXTS.get(code, "")
        shapes = "".join(map(_example_answer, response.get("content", {}).values()))
        kind = "good" if code < "400" else "bad"
        title = f"<b class='code {kind}'>{_E(code)}</b> " + (f"<span class='meaning'>{meaning}</span> " * bool(meaning))
        return f"<li>{title}{_inline(response['description'])}{shapes}</li>"

    def _resolve(self, thing: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in thing:
            found: Any = self._document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            thing = found
        return thing

    # --- Tasks ---

    def _all_tasks(self) -> str:
        intro = (
            "A task definition is an object with <code>task_name</code>; its other members are the parameters. "
            "<code>task_metas</code>, any object of your own, is kept and given back with <code>details</code>."
        )
        tasks = "".join(map(self._task, self._tasks))
        return f"<section class='group'><h2 id='tasks'>Tasks</h2><p>{intro}</p>{tasks}</section>"

    def _task(self, schema: Mapping[str, Any]) -> str:
        name, facts = _task_name(schema), schema["x-task"]
        files = ", ".join(f"<code>{_E(file)}</code>" for file in facts["output_files"]) or "none"
        result = self._schemas[_component_of(self._schemas, schema) + ".result"]
        about = (
            f"{_paragraphs(schema['description'])}<h4>Parameters</h4>"
            + _table(("Parameter", "What"), _member_rows(schema, ""))
            + f"<dl><dt>Result</dt><dd>{_result(result)}</dd><dt>Output files</dt><dd>{files}</dd>"
            f"<dt>Timeout</dt><dd>{facts['timeout']:g} s an attempt, {facts['max_attempts']} attempts when workers "
            "die</dd></dl>"
        )
        anchor = _task_anchor(name)
        doing = _examples(schema.get("x-codeSamples", ())) + task_form(anchor, schema)
        return _article(anchor, f"<code>{_E(name)}</code>", "", about, doing)


class _Call:
    """One operation, and the paths that it is found under."""

    def __init__(self, method: str, variants: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.method = method.upper()
        self.paths = [path for path, _ in variants]
        # The last variant has the parameters of all: a filename in the path.
        self.operation = variants[-1][1]
        self.samples = self.operation.get("x-codeSamples", ())
        self.anchor = _E(variants[0][1]["operationId"])


def _calls(paths: Mapping[str, Any], tag: str) -> Iterator[_Call]:
    """The calls of a tag; those that differ in their path only are one."""
    variants: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                variants.setdefault((method, operation["summary"]), []).append((path, operation))
    for (method, _), found in variants.items():
        yield _Call(method, found)


def _body_example(operation: Mapping[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    return next((media.get("example", {}) for media in content.values()), None)


def _task_name(schema: Mapping[str, Any]) -> str:
    return str(schema["properties"]["task_name"]["const"])


def _component_of(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return next(name for name, found in schemas.items() if found is schema)


def _anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)


def _task_anchor(task_name: str) -> str:
    return f"task-{_anchor(task_name)}"


# --- Pieces of the page -----------------------------------------------------------------------------------------------


def _article(anchor: str, title: str, under: str, about: str, doing: str) -> str:
    link = f"<a class='anchor' href='#{anchor}' aria-label='Link to this section'>#</a>"
    head = f"<header><h3>{title}{link}</h3>{under}</header>"
    return (
        f"<article id='{anchor}'>{head}<div class='about'>{about}</div>"
        + (f"<div class='doing'>{doing}</div>" if doing else "")
        + "</article>\n"
    )


def _contents_line(call: _Call) -> str:
    words = _words(call.operation["summary"], (item["name"] for item in call.operation.get("parameters", ())))
    path = call.paths[0].removeprefix("/v1")
    return (
        f"<li data-words='{_E(words)}'><a href='#{call.anchor}' title='{_E(call.operation['summary'])}'>"
        f"{_method(call.method)} {_E(path)}</a></li>"
    )


def _words(text: str, names: Iterable[str]) -> str:
    return " ".join([text.replace("\n", " "), *names]).lower()


def _method(method: str) -> str:
    return f"<span class='method {method.lower()}'>{method}</span>"


def _path(path: str) -> str:
    return re.sub(r"(\{\w+\})", r"<em>\1</em>", _E(path))


def _examples(samples: Sequence[Mapping[str, str]]) -> str:
    """All of them, one below the other; docs.js makes tabs of them."""
    parts = "".join(map(_example, samples))
    return f"<div class='examples'>{parts}</div>" if parts else ""


def _example(sample: Mapping[str, str]) -> str:
    source = highlight(sample["source"], sample["lang"].lower())
    return (
        f"<section data-tab='{_E(sample['label'].lower())}'><h4>{_E(sample['label'])}</h4>"
        f"<pre data-copy tabindex='0'><code>{source}</code></pre></section>"
    )


def _member_rows(schema: Mapping[str, Any], place: str) -> list[str]:
    required = schema.get("required", ())
    return [
        _row(name, place, member, description_of(member), name in required)
        for name, member in parameters_of(schema).items()
    ]


def _row(name: str, place: str, schema: Mapping[str, Any], text: str, required: bool) -> str:
    default = default_of(schema)
    facts = [_E(type_of(schema)), *([_E(place)] if place else [])]
    if required:
        facts.append("<b>required</b>")
    elif default:
        facts.append(f"default <code>{_E(default)}</code>")
    limits = bounds(schema)
    about = _inline(text) if text else ""
    note = f"<small>{_E(limits[0].upper() + limits[1:])}.</small>" if limits else ""
    return (
        f"<tr><th scope='row'><code>{_E(name)}</code></th>"
        f"<td><span class='kind'>{' · '.join(facts)}</span>{about} {note}</td></tr>"
    )


def _table(columns: Iterable[str], rows: list[str]) -> str:
    if not rows:
        return "<p>No parameters.</p>"
    head = "".join(f"<th scope='col'>{_E(column)}</th>" for column in columns)
    return f"<table class='parameters'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _result(schema: Mapping[str, Any]) -> str:
    members = schema.get("properties")
    if not members:
        return _E(type_of(schema))
    return ", ".join(f"<code>{_E(name)}</code> {_E(type_of(member))}" for name, member in members.items())


def _example_answer(content: Mapping[str, Any]) -> str:
    if "example" not in content:
        return ""
    example = content["example"]
    text = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)
    return f"<pre class='example' tabindex='0'><code>{highlight(text, 'json')}</code></pre>"


# --- Text -------------------------------------------------------------------------------------------------------------


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in re.split(r"\n\s*\n", text.strip()) if part)


def _inline(text: str) -> str:
    """Escapes, and shows `this` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _E(text))
