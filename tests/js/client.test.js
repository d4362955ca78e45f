// The JavaScript client's verbs, on a real server and worker.
import assert from "node:assert/strict";
import test from "node:test";
import { Dragon, DragonError, TaskError } from "../../dragon/server/js/dragon.js";

const { DIRECT: url, PUBLIC_URL, SAMPLE } = process.env;
const secret = "123456";
const dragon = new Dragon({ url, secret });

/** A client that notes its requests. */
function noted(options = {}) {
  const requests = [];
  const noting = (address, init) => {
    requests.push({ path: new URL(address).pathname, method: init.method ?? "GET", headers: init.headers, body: init.body && JSON.parse(init.body) });
    return fetch(address, init);
  };
  return [new Dragon({ url, secret, fetch: noting, ...options }), requests];
}

const paths = (requests) => requests.map((request) => request.path);

async function eventually(condition) {
  for (const ends = Date.now() + 10_000; ; ) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < ends, "waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("run returns the result, whatever it is", async () => {
  assert.equal(await dragon.run("hello", { name: "Jörg 🐉" }), "Hello Jörg 🐉");
  const kinds = { null: null, zero: 0, empty: "", false: false, list: [], object: {} };
  for (const [kind, result] of Object.entries(kinds)) assert.deepEqual(await dragon.run("test.value", { kind }), result);
});

test("progress is reported when it has changed, null included", async () => {
  const progress = [];
  await dragon.run("test.progress", { steps: 2, delay: 2 }, { onProgress: (value) => progress.push(value) });
  assert.deepEqual(progress, [null, { step: 0 }, { step: 1 }]);
});

test("a task's error is a TaskError with its status", async () => {
  const error = await dragon.run("test.task_error", { message: "no cat" }).catch((error) => error);
  assert.ok(error instanceof TaskError);
  assert.equal(`${error}`, "TaskError: no cat");
  assert.equal(error.status.status, "error");
  assert.equal(error.key, error.status.key);
  assert.deepEqual(error.parameters, {});
});

test("wrong parameters are a sentence", async () => {
  const error = await dragon.run("image.thumb", { widht: 3 }).catch((error) => error);
  assert.equal(error.message, "url: this field is required; widht: unknown parameter, did you mean 'width'?");
  assert.deepEqual(error.parameters.url, ["this field is required"]);
});

test("a refused request is a DragonError, at once", async () => {
  const [stranger, requests] = noted({ secret: "wrong" });
  const error = await stranger.run("hello").catch((error) => error);
  assert.ok(error instanceof DragonError);
  assert.deepEqual([error.message, error.status, error.errors], ["unknown secret key", 401, []]);
  const wrong = await dragon.status("nonsense").catch((error) => error);
  assert.deepEqual([wrong.message, wrong.status, wrong.errors[0].name], ["this is not a task key (26 characters A-Z2-7)", 400, "tasks"]);
  assert.equal(requests.length, 1);
});

test("create returns the statuses in order", async () => {
  const statuses = await dragon.create([{ task_name: "hello" }, { task_name: "no.such" }, { task_name: "countdown", task_metas: { a: 1 } }]);
  assert.deepEqual(statuses.map((status) => status.status), ["queued", "error", "queued"]);
  const [, , detailed] = await dragon.status(statuses.map((status) => status.key), { block: true, details: true });
  assert.deepEqual([detailed.status, detailed.task_name, detailed.task_metas], ["success", "countdown", { a: 1 }]);
  assert.deepEqual(await dragon.create([]), []);
});

test("all that one tick creates travels in one request, without a preflight", async () => {
  const [dragon, requests] = noted();
  const [one, two, three, [four]] = await Promise.all([
    dragon.run("hello", { name: "1" }),
    dragon.run("test.echo", { text: "2" }).then((result) => result.text),
    dragon.run("no.such").catch((error) => error.message),
    dragon.create({ task_name: "hello", name: "4" }),
  ]);
  assert.deepEqual([one, two, three, four.status], ["Hello 1", "2", "unknown task name, GET /v1/tasks lists them", "queued"]);
  assert.deepEqual(paths(requests), ["/v1/create_stream"]);
  const [{ body, headers, method }] = requests;
  assert.deepEqual([method, headers, body.secret, body.tasks.length], ["POST", undefined, secret, 4]);
  assert.match(body.idempotency_key, /^(\d+,){3}\d+$/);
});

test("creates that nobody follows hold no stream", async () => {
  const [dragon, requests] = noted();
  await Promise.all([dragon.create({ task_name: "hello" }), dragon.create({ task_name: "hello" })]);
  assert.deepEqual(paths(requests), ["/v1/create"]);
});

test("a wrong definition fails its own call only", async () => {
  const results = await Promise.allSettled([
    dragon.run("hello", { name: "1" }),
    dragon.create({ name: "no task_name" }),
    dragon.create(undefined),
    dragon.run("hello", { name: "2" }),
    dragon.run("hello", { name: "3" }, { metas: 3 }),
  ]);
  const told = results.map((result) => result.value ?? result.reason.message);
  assert.deepEqual([told[0], told[3]], ["Hello 1", "Hello 2"]);
  assert.deepEqual([told[1], told[4]], ["task_name is missing", "task_metas must be an object"]);
  assert.equal(told[2], "tasks is empty, give at least one task definition");
});

test("more than a thousand creates of one tick all arrive", async () => {
  const results = await Promise.all(Array.from({ length: 1100 }, (_, i) => dragon.run("no.such", { i }).catch((error) => error.key)));
  assert.equal(new Set(results).size, 1100);
});

test("the same idempotencyKey joins the same tasks", async () => {
  const options = { idempotencyKey: crypto.randomUUID() };
  const [[one], [two], [other]] = await Promise.all([
    dragon.create({ task_name: "hello" }, options),
    dragon.create({ task_name: "hello" }, options),
    dragon.create({ task_name: "hello" }),
  ]);
  assert.equal(one.key, two.key);
  assert.notEqual(one.key, other.key);
});

test("stream flattens its first line, and follow begins with what is", async () => {
  const kinds = [];
  let key;
  for await (const status of dragon.stream([{ task_name: "no.such" }, { task_name: "hello" }])) {
    kinds.push(status.status);
    key = status.key;
  }
  assert.deepEqual([kinds.slice(0, 2), kinds.at(-1)], [["error", "queued"], "success"]);
  const again = [];
  for await (const status of dragon.follow([key, key])) again.push(status);
  assert.deepEqual(again, await dragon.status(key));
  for await (const _ of dragon.follow([])) assert.fail();
});

test("who stops following in the tick in which another begins takes nothing with it", async () => {
  const [one, two] = await dragon.create([{ task_name: "hello" }, { task_name: "hello" }]);
  const control = new AbortController();
  const left = dragon.follow(one.key, { signal: control.signal });
  control.abort();
  const last = [];
  for await (const status of dragon.follow(two.key)) last[0] = status.result;
  for await (const status of dragon.follow(one.key)) last[1] = status.result;
  assert.deepEqual(last, ["Hello World", "Hello World"]);
  await assert.rejects(left.next(), { name: "AbortError" });
});

test("tasks that are followed twice in one client are read once", async () => {
  const [dragon, requests] = noted();
  const [{ key }] = await dragon.create({ task_name: "countdown", from: 3, delay: 0.3 });
  const results = await Promise.all([1, 2, 3].map(async () => {
    let last;
    for await (last of dragon.follow(key));
    return last.result;
  }));
  assert.deepEqual(results, [[3, 2, 1], [3, 2, 1], [3, 2, 1]]);
  assert.deepEqual(paths(requests), ["/v1/create", "/v1/status_stream"]);
});

test("however many runs are begun, at most four streams are open", async () => {
  let open = 0;
  let most = 0;
  const counting = async (address, init) => {
    most = Math.max(most, ++open);
    init.signal.addEventListener("abort", () => (open -= 1)); // at the end of each, too
    return fetch(address, init);
  };
  const dragon = new Dragon({ url, secret, fetch: counting });
  const results = [];
  for (let i = 0; i < 20; i += 1) {
    // One after the other: streams become one when they know their tasks, and a server may have no turn for a while.
    await new Promise((created) => results.push(dragon.run("test.async_sleep", { seconds: 1.5 }, { onStatus: created })));
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  assert.deepEqual(await Promise.all(results), Array(20).fill(1.5));
  assert.ok(most <= 5, `${most} at once`); // a fifth for the moment in which four become one
});

test("aborting a run cancels its task and rejects at once", async () => {
  const control = new AbortController();
  let key;
  const onStatus = (status) => {
    key = status.key;
    if (status.progress) control.abort();
  };
  const error = await dragon.run("countdown", { from: 1000 }, { signal: control.signal, onStatus }).catch((error) => error);
  assert.equal(error.name, "AbortError");
  assert.equal((await dragon.status(key, { block: true }))[0].result, "cancelled");
});

test("what is aborted before it was sent is never created, and before it was answered is cancelled", async () => {
  const [dragon, requests] = noted();
  const early = new AbortController();
  const never = dragon.run("countdown", {}, { signal: early.signal });
  early.abort();
  await assert.rejects(never, { name: "AbortError" });
  await assert.rejects(dragon.create({ task_name: "hello" }, { signal: early.signal }), { name: "AbortError" });
  assert.deepEqual(requests, []);

  const control = new AbortController();
  let key;
  const slow = async (address, init) => {
    const response = await fetch(address, init);
    if (!`${address}`.endsWith("/create")) return response;
    control.abort();
    key = (await response.clone().json())[0].key;
    return response;
  };
  const late = new Dragon({ url, secret, fetch: slow });
  await assert.rejects(late.create({ task_name: "countdown", from: 1000 }, { signal: control.signal }), { name: "AbortError" });
  await eventually(() => key);
  assert.equal((await dragon.status(key, { block: true }))[0].result, "cancelled");
});

test("a reason of one's own is what a run rejects with", async () => {
  await assert.rejects(dragon.run("countdown", { from: 100 }, { signal: AbortSignal.timeout(300) }), { name: "TimeoutError" });
});

test("who breaks off a stream leaves its tasks alone", async () => {
  let key;
  for await (const status of dragon.stream({ task_name: "countdown", from: 3, delay: 0.1 })) {
    key = status.key;
    break;
  }
  assert.deepEqual((await dragon.status(key, { block: true }))[0].result, [3, 2, 1]);
});

test("the signal of follow ends the following alone", async () => {
  const [{ key }] = await dragon.create({ task_name: "countdown", from: 5, delay: 0.1 });
  const control = new AbortController();
  const following = (async () => {
    for await (const status of dragon.follow(key, { signal: control.signal })) if (status.progress) control.abort();
  })();
  await assert.rejects(following, { name: "AbortError" });
  assert.equal((await dragon.status(key, { block: true }))[0].status, "success");
});

test("an error in a callback is the run's", async () => {
  const onStatus = () => {
    throw new RangeError("mine");
  };
  await assert.rejects(dragon.run("hello", {}, { onStatus }), { name: "RangeError" });
});

test("cancel ends a task, and one that has ended stays as it is", async () => {
  const [running, done] = await dragon.create([{ task_name: "countdown", from: 1000 }, { task_name: "hello" }]);
  assert.equal((await dragon.cancel(running.key)).result, "cancelled");
  await dragon.status(done.key, { block: true });
  assert.equal((await dragon.cancel(done.key)).result, "Hello World");
  const stranger = new Dragon({ url, apiKey: "654321" });
  await assert.rejects(stranger.cancel(done.key), { status: 401 });
});

test("status waits for all, or for as long as it was told", async () => {
  const [{ key }] = await dragon.create({ task_name: "test.async_sleep", seconds: 3 });
  const [status] = await dragon.status(key, { block: true, timeout: 0.1 });
  assert.notEqual(status.status, "success");
  assert.equal((await dragon.status([key], { block: true }))[0].status, "success");
});

test("file waits for the task and gives its output", async () => {
  const [one, two, bad] = await dragon.create([
    { task_name: "test.file", text: "größe", seconds: 0.3 },
    { task_name: "test.two_files", text: "x" },
    { task_name: "test.task_error", message: "no" },
  ]);
  assert.equal(await (await dragon.file(one.key)).text(), "größe");
  assert.equal((await (await dragon.file(two.key, "large")).text()).length, 1000);
  await assert.rejects(dragon.file(two.key, "medium"), { status: 404, message: /not a valid filename/ });
  await assert.rejects(dragon.file(bad.key), { name: "DragonError", status: 404 });
  const [failed] = await dragon.create({ task_name: "test.forgets_file" });
  await assert.rejects(dragon.file(failed.key), { name: "TaskError", key: failed.key });
});

test("imgUrl is the src of an image, without a secret key", async () => {
  const params = { url: SAMPLE, width: 40, height: null, crop: undefined };
  const source = dragon.imgUrl("image.thumb", params, { filename: "a cat.jpg" });
  assert.equal(source, `${url}/v1/create_file/a%20cat.jpg?${new URLSearchParams({ task_name: "image.thumb", url: SAMPLE, width: "40" })}`);
  const response = await fetch(source, { headers: { Referer: "http://localhost/" } });
  assert.deepEqual([response.status, response.headers.get("content-type")], [200, "image/jpeg"]);
  const keyed = new Dragon({ url: `${url}/`, apiKey: "a&b" }).imgUrl("image.strip", { urls: ["1", "2"] });
  assert.equal(keyed, `${url}/v1/create_file?task_name=image.strip&api_key=a%26b&urls=1&urls=2`);
});

test("fetch does any other call", async () => {
  const catalogue = await (await dragon.fetch("tasks")).json();
  assert.ok(catalogue.some((task) => task.name === "hello"));
  await assert.rejects(dragon.fetch("nothing"), { name: "DragonError", status: 404 });
});

test("without a url there must be one in the environment", () => {
  assert.throws(() => new Dragon(), { name: "TypeError", message: "url is missing" });
  process.env.DRAGON_URL = "http://example.com/under/";
  process.env.DRAGON_SECRET = "s";
  try {
    assert.equal(new Dragon().imgUrl("a"), "http://example.com/under/v1/create_file?task_name=a");
  } finally {
    delete process.env.DRAGON_URL;
    delete process.env.DRAGON_SECRET;
  }
});
