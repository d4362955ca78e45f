// What is done through a bad network, in Node and in Chromium: many tasks, created and followed in every way.

/** Follows tasks to their ends; what was seen of each, by key. */
export async function throughABadNetwork(Dragon, options, path, count, seconds = 0.1) {
  const dragon = new Dragon(options);
  const seen = new Map();
  const note = (status) => seen.set(status.key, [...(seen.get(status.key) ?? []), status]);
  const mark = (seconds) => ({ task_name: "test.count_starts", path, seconds });
  const progress = { task_name: "test.progress", steps: 5, delay: 0.05 };

  const runs = Array.from({ length: count }, (_, i) =>
    dragon.run("test.echo", { text: `Ünïcödé 🐉 ${i} ${"ж".repeat(100)}` }, { onStatus: note }).then((result) => result.text),
  );
  const long = dragon.run("test.async_sleep", { seconds }, { onStatus: note }); // as long as that one, a buffer keeps all of this tick back
  const streams = [[mark(0.1), progress], [progress, mark(0)], [mark(0.2)]].map(async (definitions) => {
    for await (const status of dragon.stream(definitions)) note(status);
  });
  const later = Array.from({ length: count }, async (_, i) => {
    await new Promise((resolve) => setTimeout(resolve, 20 * i));
    await dragon.run("test.count_starts", { path }, { onStatus: note });
  });
  const created = await dragon.create([mark(0), mark(0.05), { task_name: "no.such" }]);
  for await (const status of dragon.follow(created.map((status) => status.key))) note(status);
  const texts = await Promise.all(runs);
  await Promise.all([long, ...streams, ...later]);
  return { texts, seen: [...seen.values()], created: created.length, marks: 3 + count + 2 };
}

const rank = { queued: 0, executing: 1, success: 2, error: 2 };

/** What is wrong with what was seen: nothing lost, nothing twice, nothing out of order. */
export function faultsOf(seen) {
  const faults = [];
  for (const statuses of seen) {
    const texts = statuses.map((status) => JSON.stringify(status));
    const ranks = statuses.map((status) => rank[status.status]);
    if (new Set(texts).size !== texts.length) faults.push(["a status twice", ...texts]);
    if (ranks.some((one, i) => i && one < ranks[i - 1])) faults.push(["back in time", ...texts]);
    if (ranks.filter((one) => one === 2).length !== 1 || ranks.at(-1) !== 2) faults.push(["not one final status", ...texts]);
  }
  return faults;
}
