// What the JavaScript client makes of answers, byte for byte: a fetch of the test's own stands for the server.
import assert from "node:assert/strict";
import test from "node:test";
import { Dragon } from "../../dragon/server/js/dragon.js";

const KEY = "A".repeat(26);
const OTHER = "B".repeat(26);
const events = { queued: "2026-01-01T00:00:00.000000+00:00" };
const started = (second) => ({ ...events, started: `2026-01-01T00:00:0${second}.000000+00:00` });
const queued = { status: "queued", key: KEY, events };
const executing = { status: "executing", key: KEY, events: started(1) };
const success = { status: "success", key: KEY, events: started(1), result: "größe 🐉" };
const lines = (...values) => values.map((value) => `${JSON.stringify(value)}\n`).join("");
const encode = (text) => new TextEncoder().encode(text);

/** A stream of the given chunks; an Error among them cuts it, `undefined` leaves it silent. */
function answer(...chunks) {
  const body = new ReadableStream({
    pull(controller) {
      if (!chunks.length) return controller.close();
      const chunk = chunks.shift();
      if (chunk === undefined) return new Promise(() => {});
      return chunk instanceof Error ? controller.error(chunk) : controller.enqueue(typeof chunk === "string" ? encode(chunk) : chunk);
    },
  });
  return new Response(body);
}

const refused = (status, body = {}, headers = {}) => new Response(JSON.stringify(body), { status, headers });

/** A client whose requests are answered by the functions, one after another. */
function scripted(answers, { onAsked, ...options } = {}) {
  const asked = [];
  const fetch = async (url, init) => {
    asked.push({ path: url.pathname, body: init.body && JSON.parse(init.body) });
    onAsked?.(url);
    const made = answers.shift()?.(init);
    if (made instanceof Error) throw made;
    if (made?.body && init.signal) {
      // As fetch does: an abort is an error of the body that is being read.
      const { readable, writable } = new TransformStream();
      made.body.pipeTo(writable, { signal: init.signal }).catch(() => {});
      return new Response(readable, made);
    }
    assert.ok(made, `nobody expected ${url}`);
    return made;
  };
  return [new Dragon({ url: "http://server", secret: "s", fetch, ...options }), asked];
}

async function all(statuses) {
  const found = [];
  for await (const status of statuses) found.push(status);
  return found;
}

const paths = (asked) => asked.map((request) => request.path);
const cut = () => new TypeError("network error");

test("a stream may be split at every byte, inside a character too, with heartbeats anywhere", async () => {
  const bytes = encode(` ${lines([queued])}  ${lines(executing)} \n ${lines(success)}`);
  for (let at = 0; at <= bytes.length; at += 1) {
    const [dragon] = scripted([() => answer(bytes.slice(0, at), bytes.slice(at))]);
    assert.deepEqual(await all(dragon.follow(KEY)), [queued, executing, success]);
  }
  const [dragon] = scripted([() => answer(...[...bytes].map((byte) => Uint8Array.of(byte)))]);
  assert.deepEqual(await all(dragon.follow(KEY)), [queued, executing, success]);
});

test("a stream may be cut at every byte, and nothing comes twice", async () => {
  const bytes = encode(lines([queued], executing, success));
  const cutAt = async (at, ...end) => {
    const [dragon, asked] = scripted([() => answer(bytes.slice(0, at), ...end), () => answer(lines([executing], success))]);
    const found = await all(dragon.follow(KEY));
    assert.deepEqual(found.slice(-2), [executing, success]);
    assert.equal(new Set(found.map((status) => JSON.stringify(status))).size, found.length);
    assert.ok(asked.every(({ path, body }) => path === "/v1/status_stream" && body.tasks[0] === KEY));
    return asked.length;
  };
  const places = Array.from({ length: bytes.length + 1 }, (_, at) => at);
  const requests = await Promise.all(places.flatMap((at) => [cutAt(at), cutAt(at, cut())]));
  assert.equal(requests.filter((count) => count === 1).length, 3, "whole, with or without its last byte; whole, and then cut");
});

test("what was not created is created again under the same key, what was is followed", async () => {
  const other = { ...success, key: OTHER };
  const [dragon, asked] = scripted([
    cut,
    () => answer(lines([queued, { ...queued, key: OTHER }]).slice(0, 80), cut()),
    () => answer(lines([queued, { ...queued, key: OTHER }], other), cut()),
    () => answer(lines([executing], success)),
  ]);
  const found = await all(dragon.stream([{ task_name: "a" }, { task_name: "b" }]));
  assert.deepEqual(found, [queued, { ...queued, key: OTHER }, other, executing, success]);
  assert.deepEqual(paths(asked), ["/v1/create_stream", "/v1/create_stream", "/v1/create_stream", "/v1/status_stream"]);
  assert.deepEqual(asked[1].body, asked[0].body);
  assert.deepEqual(asked[2].body, asked[0].body);
  assert.deepEqual(asked[3].body, { tasks: [KEY] }, "only what is not final, and without a key");
});

test("a status that says no more than the last is dropped, and an older one", async () => {
  const again = { ...executing, events: started(2) };
  const found = [
    { ...queued, position: 3, eta: 1 },
    { ...queued, position: 2, eta: 1 },
    executing,
    { ...executing, progress: 1 },
    { ...executing, progress: 2 },
    { ...executing, progress: 1 }, // a task may go back
    again,
    { ...again, progress: null },
    success,
  ];
  const [p3, p2, one, ...rest] = found;
  const [dragon] = scripted([
    () => answer(lines([p3], p3, p2, queued, one, queued, p2, one), cut()),
    () => answer(lines([one], ...rest.slice(0, 4), executing, ...rest.slice(4), success, executing)),
  ]);
  assert.deepEqual(await all(dragon.follow(KEY)), found);
});

test("503, 429 and the errors of proxies are tried again after Retry-After, and onRetry is told", async () => {
  const isTriedAgain = async (status) => {
    const told = [];
    const onRetry = (error, seconds) => told.push([error.status, error.message, seconds >= 1]);
    const answers = [() => refused(status, { message: "full" }, { "Retry-After": "1" }), () => answer(lines([success]))];
    const [dragon] = scripted(answers, { onRetry });
    const began = performance.now();
    assert.deepEqual(await dragon.status(KEY), [success]);
    assert.ok(performance.now() - began >= 990);
    assert.deepEqual(told, [[status, "full", true]]);
  };
  await Promise.all([408, 429, 502, 503, 504].map(isTriedAgain));
});

test("400, 401, 404, 413 and 500 are not tried again", async () => {
  for (const status of [400, 401, 404, 413, 500]) {
    const [dragon, asked] = scripted([() => refused(status, {}, { "Retry-After": "1" })]);
    await assert.rejects(dragon.run("a"), { name: "DragonError", status, message: `the server answered ${status}`, retryAfter: 1 });
    assert.equal(asked.length, 1);
  }
});

test("all that is wrong with a request is one sentence", async () => {
  const errors = [{ name: "tasks", location: "body", description: "tasks is missing" }, { name: "x", location: "body", description: "x is odd" }];
  const [dragon] = scripted([() => refused(400, { status: "error", errors })]);
  await assert.rejects(dragon.status(KEY), { message: "tasks is missing; x is odd", errors });
});

test("a server that stays away is given up after `timeout`, with the network's error", async () => {
  const [dragon, asked] = scripted(Array(1000).fill(cut), { timeout: 1 });
  const [run, status, follow] = await Promise.allSettled([dragon.run("a"), dragon.status(KEY), all(dragon.follow(KEY))]);
  for (const { reason } of [run, status, follow]) assert.equal(reason.message, "network error");
  assert.ok(asked.length > 6 && asked.length < 100, `${asked.length} requests`);
});

test("what waits to try again can be aborted, and holds no process", async () => {
  const control = new AbortController();
  const [dragon] = scripted([() => refused(503, {}, { "Retry-After": "60" })], { onRetry: () => setTimeout(() => control.abort(), 10) });
  const began = performance.now();
  await assert.rejects(dragon.status(KEY, { signal: control.signal }), { name: "AbortError" });
  assert.ok(performance.now() - began < 5000);
});

test("a stream without its first byte is polled, and so are later ones", async () => {
  const partly = { ...executing, progress: 5 };
  const [dragon, asked] = scripted(
    [() => answer(undefined), () => answer(lines([queued])), () => answer(lines([partly])), () => answer(lines([success])), () => answer(lines([success]))],
    { heartbeat: 0.1 },
  );
  assert.deepEqual(await all(dragon.stream({ task_name: "a" })), [queued, partly, success]);
  assert.deepEqual(await all(dragon.follow(KEY)), [success]);
  assert.deepEqual(paths(asked), ["/v1/create_stream", "/v1/create", "/v1/status", "/v1/status", "/v1/status"]);
  assert.deepEqual(asked[1].body, asked[0].body, "the same tasks under the same key");
  assert.deepEqual(asked[2].body, { tasks: [KEY], block: true, timeout: 0.05 });
});

test("a stream that falls silent later is taken up as a stream", async () => {
  const [dragon, asked] = scripted([() => answer(lines([queued]), " ", undefined), () => answer(lines([success]))], { heartbeat: 0.1 });
  assert.deepEqual(await all(dragon.follow(KEY)), [queued, success]);
  assert.deepEqual(paths(asked), ["/v1/status_stream", "/v1/status_stream"]);
});

test("heartbeats keep a silent stream", async () => {
  const wait = () => new Promise((resolve) => setTimeout(resolve, 150));
  const slow = () => {
    const chunks = [lines([queued]), " ", " ", " ", " ", lines(success)];
    return new Response(new ReadableStream({ async pull(controller) {
      await wait();
      chunks.length ? controller.enqueue(encode(chunks.shift())) : controller.close();
    } }));
  };
  const [dragon, asked] = scripted([slow], { heartbeat: 0.2 });
  assert.deepEqual(await all(dragon.follow(KEY)), [queued, success]);
  assert.equal(asked.length, 1);
});

test("a caller that is far behind gets the newest of each task, and the last", async () => {
  const many = Array.from({ length: 50_000 }, (_, i) => ({ ...executing, progress: i }));
  const pieces = Array.from({ length: 100 }, (_, i) => lines(...many.slice(500 * i, 500 * i + 500)));
  const [dragon] = scripted([() => answer(lines([queued]), ...pieces, lines(success))]);
  const statuses = dragon.follow(KEY);
  assert.deepEqual((await statuses.next()).value, queued);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const rest = await all(statuses);
  assert.ok(rest.length < 2100, `${rest.length} were kept`);
  assert.deepEqual(rest.at(-1), success);
});

test("the lines of a log are read to their end, and a cut log is taken up behind the last", async () => {
  const line = (number) => ({ number, time: events.queued, attempt: 1, text: `line ${number}` });
  const page = (ended, ...found) => ({ key: KEY, lines: found, next: found.at(-1)?.number ?? 3, ended });
  const asked = [];
  const answers = [
    () => answer(lines(line(1), line(2)), cut()),
    () => answer(` ${lines(line(3))}`),
    () => answer(JSON.stringify(page(false, line(4)))),
    () => answer(lines(line(5))),
    () => answer(JSON.stringify(page(true))),
  ];
  const [dragon] = scripted(answers, { onAsked: (url) => asked.push(url.search) });
  assert.deepEqual(await all(dragon.log(KEY, { follow: true })), [1, 2, 3, 4, 5].map(line));
  const after = (number, follow) => `?task=${KEY}&after=${number}${follow ? "&follow=true" : ""}`;
  assert.deepEqual(asked, [after(0, true), after(2, true), after(3), after(4, true), after(5)]);

  answers.push(() => answer(JSON.stringify(page(false, line(1), line(2)))), () => answer(JSON.stringify(page(false))));
  assert.deepEqual(await all(dragon.log(KEY)), [1, 2].map(line));
  answers.push(() => answer(lines(line(1)), undefined));
  for await (const { number } of dragon.log(KEY, { follow: true })) {
    assert.equal(number, 1);
    break; // and the request ends with it
  }
});
