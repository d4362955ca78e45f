// Through proxies that cut connections anywhere, and that buffer whole answers: nothing lost, nothing twice.
import assert from "node:assert/strict";
import test from "node:test";
import { Dragon } from "../../dragon/server/js/dragon.js";
import { faultsOf, throughABadNetwork } from "./scenario.js";

const { DIRECT, CUTTING, CUTS, BUFFERING, MARKS } = process.env; // CUTS: so many requests at least are cut
const secret = "123456";
const heartbeat = 1.5; // a stream without its first byte for so long is polled; more than a busy machine needs to answer
const direct = new Dragon({ url: DIRECT, secret });

test("a proxy that cuts anywhere loses nothing, and doubles nothing", { skip: !CUTTING }, async () => {
  let repetitions = 0;
  const onRetry = () => (repetitions += 1);
  const { texts, seen, marks } = await throughABadNetwork(Dragon, { url: CUTTING, secret, onRetry }, MARKS, 40);
  assert.deepEqual(texts, Array.from({ length: 40 }, (_, i) => `Ünïcödé 🐉 ${i} ${"ж".repeat(100)}`));
  assert.deepEqual(faultsOf(seen), []);
  assert.equal(seen.length, 40 + 3 + marks + 1);
  assert.ok(repetitions >= Number(CUTS), `${repetitions} repetitions: the proxy cut too little`);
  const finals = seen.map((statuses) => statuses.at(-1));
  assert.deepEqual(finals, await direct.status(finals.map((status) => status.key)));
  console.log(`${repetitions} repetitions`);
});

test("behind a proxy that buffers, statuses are polled while the tasks run", { skip: !BUFFERING }, async () => {
  const dragon = new Dragon({ url: BUFFERING, secret, heartbeat });
  const seen = [];
  const result = await dragon.run("countdown", { from: 20, delay: 0.4 }, { onStatus: (status) => seen.push(status) });
  assert.equal(result.length, 20);
  assert.deepEqual(faultsOf([seen]), []);
  const progress = new Set(seen.map((status) => status.progress));
  assert.ok(progress.size > 2, `${[...progress]}`);
});

test("behind a proxy that buffers nothing is lost, and nothing doubled", { skip: !BUFFERING }, async () => {
  const { seen, marks } = await throughABadNetwork(Dragon, { url: BUFFERING, secret, heartbeat }, MARKS, 10, 4);
  assert.deepEqual(faultsOf(seen), []);
  assert.equal(seen.length, 10 + 3 + marks + 1);
});

test("follow polls too", { skip: !BUFFERING }, async () => {
  const [{ key }] = await direct.create({ task_name: "countdown", from: 16, delay: 0.5 });
  const dragon = new Dragon({ url: BUFFERING, heartbeat });
  const seen = [];
  for await (const status of dragon.follow(key)) seen.push(status);
  assert.deepEqual(faultsOf([seen]), []);
  assert.ok(seen.length > 2);
  assert.deepEqual(seen.at(-1), (await direct.status(key))[0]);
});
