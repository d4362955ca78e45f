"""What a task's author imports: `@task`, the context, the parameter types; and the registry that they fill.

The signature of the function is the schema. Parameters are checked against it, the catalogue and the conversion of
querystrings come from it, and the members of the returned dataclass that are OutputFiles are the task's output files.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import mimetypes
import pkgutil
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic import PositiveInt as PositiveInt
from pydantic import create_model as create_pydantic_model

from dragon.definition import RESERVED
from dragon.errors import ConfigError
from dragon.errors import TaskError as TaskError

__all__ = ["AsyncContext", "Context", "Field", "HttpUrl", "Limits", "OutputFile", "PositiveInt", "TaskError", "task"]

URL_LIMIT = 8192  # characters
QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)  # what stands behind an @ is an account's lane


def _check_http_url(url: str) -> str:
    if len(url) > URL_LIMIT:
        raise ValueError(f"a URL may have {URL_LIMIT} characters at most")
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("this is not a valid URL") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("the URL must begin with http:// or https://")
    if not parts.hostname or not port_is_fine:
        raise ValueError("the URL names no valid host")
    if "@" in parts.netloc:  # it would be stored with the task, and no download sends it
        raise ValueError("a URL must not have a user name or a password in it")
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise ValueError("the URL has white space in it, write it as %20")
    return url


#: A string that is an http or https URL. What it may reach is decided when it is fetched (dragon.fetch).
HttpUrl = Annotated[
    str, AfterValidator(_check_http_url), WithJsonSchema({"type": "string", "format": "uri", "maxLength": URL_LIMIT})
]


_FileUrl = Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a task makes: the author writes to `path`, dragon stores it and puts its URL in the result."""

    name: str  # the output's name, as declared in the result's dataclass
    path: Path  # in the task's scratch folder

    @property
    def filename(self) -> str:
        return self.path.name

    @property
    def content_type(self) -> str:
        return content_type_of(self.path.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of conf/dragon.toml's [limits] that concern a task's author."""

    pixels: int
    frames: int
    output_pixels: int
    log_line_bytes: int = 4096


class Reporting(Protocol):
    """What every task is given: who it is, where it may write, and how it reports."""

    @property
    def key(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 on the first try, one more after each lost worker or crash."""

    @property
    def scratch(self) -> Path:
        """A folder of this attempt alone; it is removed at the end."""

    @property
    def limits(self) -> Limits: ...

    def progress(self, value: Any) -> None:
        """Reports progress: any value that JSON can say, 0-100 by custom."""

    def partial(self, value: Any) -> None:
        """Reports a partial result, seen as `result` while the task executes."""

    def log(self, *values: Any) -> None:
        """Says something, as `print` does: a line (or several) of the task's log, which its clients can read."""

    def output_file(self, name: str, extension: str) -> OutputFile:
        """The place for the output file `name`; `extension` (".jpg") decides its content type."""


class Context(Reporting, Protocol):
    """The context of a `def` task."""

    def fetch(self, url: str) -> Path:
        """Downloads `url` into the scratch folder and returns its path. Raises TaskError that the client may read."""


class AsyncContext(Reporting, Protocol):
    """The context of an `async def` task; a cancelled task gets asyncio.CancelledError at its next await."""

    async def fetch(self, url: str) -> Path:
        """As Context.fetch."""


class ParametersError(Exception):
    """Raised when a task's parameters do not fit its signature: `problems` lists sentences by parameter."""

    def __init__(self, problems: dict[str, list[str]]) -> None:
        super().__init__("; ".join(f"{name}: {', '.join(texts)}" for name, texts in problems.items()))
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class Task:
    """One declared task: the function and all that is known of it without running it."""

    name: str
    function: Callable[..., Any]
    model: type[BaseModel]
    fields: dict[str, str]  # parameter name -> the name in the signature
    outputs: tuple[str, ...]
    result_schema: dict[str, Any]
    queue: str
    timeout: float  # seconds
    max_attempts: int
    is_async: bool
    description: str
    preload: tuple[str, ...]  # modules that executors are forked with

    def check(self, parameters: Mapping[str, Any]) -> bytes:
        """Checks JSON parameters against the signature; returns them as JSON bytes. Raises ParametersError."""
        encoded = orjson.dumps(parameters)
        self._validate(encoded, strict=True)
        return encoded

    def convert(self, parameters: Mapping[str, list[str]]) -> dict[str, Any]:
        """Turns a querystring's values into JSON parameters of the declared types. Raises ParametersError."""
        values: dict[str, Any] = {}
        problems: dict[str, list[str]] = {}
        for name, texts in parameters.items():
            if name in self.fields and self._takes_list(name):
                values[name] = texts
            elif len(texts) > 1:
                problems[name] = ["this parameter may be given once only"]
            else:
                values[name] = texts[0]
        try:
            model = self._convert_texts(values)
        except ParametersError as error:
            raise ParametersError(error.problems | problems) from None
        if problems:
            raise ParametersError(problems)
        return model.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def _convert_texts(self, values: dict[str, Any]) -> BaseModel:
        try:
            return self._validate(orjson.dumps(values), strict=False)
        except ParametersError as error:
            # pydantic reads "90" as an int, but not as the 90 of a Literal: where the text did not do, its number may.
            wrong = {name.partition(".")[0] for name in error.problems} & set(values)
            numbers = {name: _as_numbers(values[name]) for name in wrong}
            return self._validate(orjson.dumps(values | numbers), strict=False)

    def arguments(self, parameters: bytes) -> dict[str, Any]:
        """The keyword arguments for the function, from the JSON bytes that `check` made."""
        return dict(vars(self._validate(parameters, strict=True)))

    def _validate(self, encoded: bytes, *, strict: bool) -> BaseModel:
        try:
            return self.model.model_validate_json(encoded, strict=strict)
        except ValidationError as error:
            raise ParametersError(self._problems(error)) from None

    def _problems(self, error: ValidationError) -> dict[str, list[str]]:
        problems: dict[str, list[str]] = {}
        for item in error.errors(include_input=False, include_url=False, include_context=False):
            name = ".".join(str(part) for part in item["loc"]) or "parameters"
            match item["type"]:
                case "missing":
                    text = "this field is required"
                case "extra_forbidden":
                    text = "unknown parameter" + self._suggestion(name)
                case "value_error":
                    text = item["msg"].removeprefix("Value error, ")
                case _:
                    text = item["msg"][:1].lower() + item["msg"][1:]
            problems.setdefault(name, []).append(text)
        return problems

    def _suggestion(self, name: str) -> str:
        close = difflib.get_close_matches(name[:100], self.fields, n=1)
        return f", did you mean {close[0]!r}?" if close else ""

    def _takes_list(self, name: str) -> bool:
        annotation = self.model.model_fields[self.fields[name]].annotation
        return any(typing.get_origin(part) is list for part in (annotation, *typing.get_args(annotation)))

    def describe(self) -> dict[str, Any]:
        """The catalogue entry, without what only Redis knows (how many workers serve it)."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": parameters_schema(self),
            "result": self.result_schema,
            "output_files": list(self.outputs),
            "queue": self.queue,
            "timeout": self.timeout,
            "max_attempts": self.max_attempts,
        }


def _as_numbers(texts: str | list[str]) -> Any:
    if isinstance(texts, list):
        return [_as_numbers(text) for text in texts]
    try:
        number = int(texts)
    except ValueError:
        return texts
    return number if -(1 << 63) <= number < 1 << 64 else texts  # JSON has no larger ones here


def parameters_schema(task: Task) -> dict[str, Any]:
    """JSON Schema of a task's parameters."""
    schema = task.model.model_json_schema(by_alias=True)
    schema.pop("title", None)
    for member in schema.get("properties", {}).values():
        member.pop("title", None)
    return schema


class Registry:
    """The declared tasks by name."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}

    def add(self, task: Task) -> None:
        present = self.tasks.get(task.name)
        if present is not None and present.function.__module__ != task.function.__module__:
            raise ConfigError(
                f"two tasks are called {task.name!r}: in {present.function.__module__} and {task.function.__module__}"
            )
        self.tasks[task.name] = task

    def get(self, name: str) -> Task | None:
        return self.tasks.get(name)

    def unknown(self, name: str) -> str:
        """The sentence for a name that no task has."""
        close = difflib.get_close_matches(name[:100], self.tasks, n=1)
        return f"unknown task name{f', did you mean {close[0]!r}?' if close else ', GET /v1/tasks lists them'}"


#: Filled by the decorator when task modules are imported; everything else receives a Registry.
_declared = Registry()


def task(
    name: str,
    *,
    timeout: float = 300,
    max_attempts: int = 3,
    queue: str = "default",
    preload: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares a task under its public name.

    `timeout` is in seconds of one attempt; `max_attempts` bounds how often it is started when workers die or crash
    under it (an exception ends it at once). Only the context is positional: the other parameters come by name, and one
    trailing underscore is dropped from their public name (`from_` is `from`). `preload` names modules that the function
    imports when it runs: executors are forked with them (never the server), so they must start no threads on import.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        _declared.add(
            _declare(name, function, timeout=timeout, max_attempts=max_attempts, queue=queue, preload=preload)
        )
        return function

    return declare


def _declare(
    name: str,
    function: Callable[..., Any],
    *,
    timeout: float,
    max_attempts: int,
    queue: str,
    preload: tuple[str, ...] = (),
) -> Task:
    if not QUEUE_NAME.fullmatch(queue):
        raise ConfigError(f"task {name!r}: the queue {queue!r} must have letters, digits, '_', '-' and '.' only")
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    members: dict[str, Any] = {}
    fields = {}
    for parameter in list(signature.parameters.values())[1:]:
        public = parameter.name.removesuffix("_")
        if public in RESERVED:
            raise ConfigError(f"task {name!r}: the parameter name {public!r} is reserved")
        if parameter.name not in hints:
            raise ConfigError(f"task {name!r}: parameter {parameter.name!r} has no type annotation")
        default = ... if parameter.default is parameter.empty else parameter.default
        field = Field(default, alias=public) if public != parameter.name else default
        members[parameter.name] = (hints[parameter.name], field)
        fields[public] = parameter.name
    model = create_pydantic_model(
        name.replace(".", "_"),
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=()),
        **members,
    )
    outputs, result_schema = _describe_result(hints.get("return", Any))
    return Task(
        name=name,
        function=function,
        model=model,
        fields=fields,
        outputs=outputs,
        result_schema=result_schema,
        queue=queue,
        timeout=timeout,
        max_attempts=max_attempts,
        is_async=inspect.iscoroutinefunction(function),
        description=inspect.getdoc(function) or "",
        preload=preload,
    )


def _describe_result(annotation: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        hints = typing.get_type_hints(annotation, include_extras=True)
        outputs = tuple(name for name, hint in hints.items() if hint is OutputFile)
        shown: dict[str, Any] = {name: (_FileUrl if name in outputs else hint, ...) for name, hint in hints.items()}
        model = create_pydantic_model(annotation.__name__, **shown)
        described: dict[str, Any] = model.model_json_schema()
        for member in (described, *described["properties"].values()):
            member.pop("title", None)
        return outputs, described
    return (), TypeAdapter(annotation).json_schema()


def load_tasks(modules: tuple[str, ...]) -> Registry:
    """Imports the modules (of a package, all of them) and returns the tasks that they declare.

    Raises ConfigError when a module cannot be imported: a server without its tasks would answer nonsense.
    """
    for name in modules:
        try:
            module = importlib.import_module(name)
            for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
                importlib.import_module(f"{name}.{found.name}")
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"the task module {name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    registry = Registry()
    for declared in _declared.tasks.values():
        module_name = declared.function.__module__
        if any(module_name == name or module_name.startswith(name + ".") for name in modules):
            registry.add(declared)
    return registry


def preload(registry: Registry) -> None:
    """Imports what the tasks will import when they run. Raises ConfigError."""
    for name in {name for task in registry.tasks.values() for name in task.preload}:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(f"the module {name!r} that a task preloads cannot be imported: {error}") from error


def content_type_of(filename: str) -> str:
    """The content type that a file's extension stands for."""
    return _CONTENT_TYPES.get(Path(filename).suffix.lower()) or (
        mimetypes.guess_type(filename)[0] or "application/octet-stream"
    )


# Spelled out because what `mimetypes` knows depends on the machine's /etc/mime.types.
_CONTENT_TYPES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}
