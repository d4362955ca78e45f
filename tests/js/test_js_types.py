"""The types of the JavaScript client: what is written of a schema, and what TypeScript's compiler says of the whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import playwright
import pytest

from dragon.config import ROOT
from dragon.server.typescript import declare_tasks
from dragon.task import Field, Registry, _declare, load_tasks
from tests.system import MODULES

NODE = Path(playwright.__file__).parent / "driver" / "node"
COMPILER = ROOT / ".venv" / "typescript" / "node_modules" / "typescript" / "lib" / "tsc.js"


def compiler() -> str:
    """The compiler that `.ci/typescript` has installed, or the machine's."""
    installed = shutil.which("tsc")
    if COMPILER.exists() or installed:
        return str(COMPILER) if COMPILER.exists() else os.path.realpath(str(installed))
    pytest.skip("NO TYPESCRIPT, the types were not compiled: make typescript")


def declared(schema: dict[str, Any]) -> str:
    """The type of a schema, without comments, in one line."""
    entry = {"name": "t", "description": "", "parameters": {}, "result": schema, "output_files": []}
    text = declare_tasks([entry]).partition("result: ")[2].rpartition(";\n  };")[0]
    return re.sub(r"\s+", " ", re.sub(r"/\*\*.*?\*/", "", text, flags=re.DOTALL)).strip()


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({}, "unknown"),
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"enum": ["a", 'b"', 1, True, None]}, r'"a" | "b\"" | 1 | true | null'),
        ({"const": "image", "type": "string"}, '"image"'),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"oneOf": [{"type": "string"}, {"type": "boolean"}]}, "string | boolean"),
        ({"allOf": [{"enum": [1, 2]}, {"type": "number"}]}, "(1 | 2) & number"),
        ({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "Array<string | null>"),
        ({"type": "array", "items": {"type": "array", "items": {"enum": [1, 2]}}}, "Array<Array<1 | 2>>"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "string[][]"),
        ({"type": "array"}, "unknown[]"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}, "[string, number]"),
        ({"type": "object"}, "Record<string, unknown>"),
        ({"type": "object", "additionalProperties": False}, "Record<string, never>"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "Record<string, number>"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}, "b-c": {"type": "null"}}, "required": ["a"]},
            '{ a: string; "b-c"?: null; }',
        ),
        ({"type": "object", "properties": {'x";\n}': {}}}, r'{ "x\";\n}"?: unknown; }'),
        ({"type": "a kind of the future"}, "unknown"),
        ({"$ref": "#/$defs/Nobody"}, "unknown"),
        ({"enum": []}, "never"),
        ({"type": "array", "items": False}, "never[]"),
    ],
)  # fmt: skip
def test_a_schema_is_written_as_its_type(schema: Any, written: str) -> None:
    assert declared(schema) == written


def test_definitions_are_types_of_their_own_and_may_name_themselves() -> None:
    tree = {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
    schema = {"$defs": {"Tree": tree, "tree!": {"type": "null"}}, "$ref": "#/$defs/Tree"}
    entry = {"name": "a.tree", "description": "", "parameters": schema, "result": schema, "output_files": []}
    text = declare_tasks([entry])
    names = re.findall(r"export type (\w+) = ", text)
    assert len(names) == len(set(names)) == 4
    assert f"export type {names[0]} = {{\n  below?: {names[0]}[];\n}};\n" in text
    assert f"    params: {names[0]};\n    result: {names[2]};\n" in text


def written_task() -> Any:
    def sample(
        ctx: Any,
        url: str,
        kind: Literal["small", "large"] = "small",
        sizes: Annotated[list[int], Field(max_length=3, description="each in pixels */ alert(1)")] = [1, 2],  # noqa: B006
        side: Annotated[int, Field(ge=1, le=9)] | None = None,
    ) -> dict[str, int]:
        """Do something.

        With care. */ evil
        """
        return {}

    return _declare('a"task', sample, timeout=1, max_attempts=1, queue="default")


def test_a_task_is_written_with_all_that_is_said_of_it() -> None:
    text = declare_tasks([written_task().describe()])
    assert text.partition("export interface Tasks {\n")[2].partition("\n}\n")[0] == (
        r"""  /**
   * Do something.
   *
   * With care. *\/ evil
   */
  "a\"task": {
    params: {
      url: string;
      /** @default "small" */
      kind?: "small" | "large";
      /**
       * each in pixels *\/ alert(1)
       * at most 3 items
       * @default [1, 2]
       */
      sizes?: number[];
      /** at least 1, at most 9 */
      side?: number | null;
    };
    result: Record<string, number>;
  };"""
    )


# --- The compiler -----------------------------------------------------------------------------------------------------

USE = """\
import { Dragon, TaskError, type Status, type LogLine } from "./dragon.js";
import type { Tasks } from "./tasks.js";
const dragon = new Dragon({ apiKey: "1", onRetry: (error, seconds) => console.log(error.message, seconds * 2) });
const thumb = await dragon.run("image.thumb", { url: "http://x", width: 200, rotation: 90, format: "webp" });
await dragon.run("image.thumb", { url: "http://x", height: null });
const output: string = thumb.output;
const hello: string = await dragon.run("hello");
await dragon.run("hello", {}, { onProgress: (progress: number, status) => status.key });
const numbers: Tasks["countdown"]["result"] = await dragon.run("countdown", { from: 3 });
const first: number = numbers[0];
for await (const status of dragon.stream([{ task_name: "hello", name: "x" }, { task_name: "countdown", from: 2 }])) {
  const same: Status = status;
}
for await (const status of dragon.follow(["A"], { signal: AbortSignal.timeout(1) })) status.events?.started?.length;
for await (const line of dragon.log("A", { follow: true })) ((line: LogLine) => line.number)(line);
const created: Status[] = await dragon.create({ task_name: "hello", task_metas: { a: 1 } }, { idempotencyKey: "a" });
const image: string = dragon.imgUrl("image.thumb", { url: "x" }, { filename: "a" });
const bytes: Blob = await (await dragon.file("A", "small")).blob();
try { await dragon.cancel("A"); } catch (error) { if (error instanceof TaskError) error.parameters.url[0].length; }
"""

#: What the compiler has to refuse, each by itself.
MISUSES = [
    'await dragon.run("image.thum", { url: "x" })',
    'await dragon.run("image.thumb", { width: 2 })',
    'await dragon.run("image.thumb")',
    'await dragon.run("image.thumb", { url: "x", width: "200" })',
    'await dragon.run("image.thumb", { url: "x", format: "bmp" })',
    'await dragon.run("image.thumb", { url: "x", widht: 200 })',
    'const x: number = await dragon.run("hello")',
    "thumb.nothing",
    'await dragon.create({ task_name: "image.thumb", url: 3 })',
    'await dragon.create({ name: "hello" })',
    'dragon.imgUrl("image.thumb", { ur: "x" })',
    'await dragon.run("hello", {}, { onprogress() {} })',
    'new Dragon({ key: "x" })',
]

BARE = """\
import { Dragon } from "./dragon.js";
const dragon = new Dragon();
(await dragon.run("anything", { a: 1 })).whatever;
await dragon.run("anything");
await dragon.create([{ task_name: "a", b: 2 }, { task_name: "c" }]);
"""

SETTINGS = """{"compilerOptions": {"target": "es2022", "module": "nodenext", "strict": true, "noEmit": true,
  "lib": ["es2022", "dom", "dom.asynciterable"], "types": []}, "files": ["use.ts"]}"""


def compile_with(folder: Path, source: str, registry: Registry | None) -> str:
    """What the compiler says of a program beside the client's files, in its strictest mode."""
    shutil.copy(ROOT / "dragon" / "server" / "js" / "dragon.d.ts", folder)
    if registry is not None:
        described = [registry.tasks[name].describe() for name in sorted(registry.tasks)]
        (folder / "tasks.d.ts").write_text(declare_tasks([*described, written_task().describe()]))
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(SETTINGS)
    (folder / "use.ts").write_text(source)
    done = subprocess.run([NODE, compiler(), "-p", folder], capture_output=True, text=True, timeout=50)
    return done.stdout + done.stderr


def test_the_compiler_takes_right_uses_and_refuses_every_wrong_one(tmp_path: Path) -> None:
    wrong = "".join(f"// @ts-expect-error\n{misuse};\n" for misuse in MISUSES)
    assert compile_with(tmp_path, USE + wrong, load_tasks(MODULES)) == ""


def test_without_the_types_of_the_tasks_any_name_will_do(tmp_path: Path) -> None:
    assert compile_with(tmp_path, BARE, None) == ""


def test_a_mistake_would_be_noticed(tmp_path: Path) -> None:
    said = compile_with(tmp_path, USE + 'await dragon.run("hello", { nam: 1 });\n', load_tasks(MODULES))
    assert "'nam' does not exist in type" in said
