// What an operator does to many tasks: in calls of a size that the server takes, with one sentence at the end.

import { call } from "./api.js";
import { count, many } from "./format.js";
import { say } from "./parts.js";
import { taskAddress } from "./router.js";

const AT_ONCE = 100; // tasks in one call

async function inPieces(keys, send) {
  const answers = [];
  for (let at = 0; at < keys.length; at += AT_ONCE) answers.push(...(await send(keys.slice(at, at + AT_ONCE))));
  return answers;
}

/** Retries tasks and says what came of it; returns the answers. */
export async function retryTasks(keys) {
  const answers = await inPieces(keys, (tasks) => call("POST", "/v1/operator/retry", { body: { tasks } }));
  sayRetried(answers);
  return answers;
}

/** Retries what a group of failures holds, up to `limit` tasks of each. */
export async function retryGroups(groups, limit) {
  const answers = [];
  for (const group of groups) answers.push(...(await call("POST", "/v1/operator/retry", { body: { group, limit } })));
  sayRetried(answers);
  return answers;
}

function sayRetried(answers) {
  const created = answers.filter((answer) => !answer.message && answer.retried_as);
  const refused = answers.filter((answer) => answer.message || !answer.retried_as);
  const parts = [`${many(created.length, "task")} retried`];
  if (refused.length) parts.push(`${many(refused.length, "task")} not: ${reasons(refused.map((answer) => answer.message ?? "no reason given"))}`);
  const link = created.length === 1 ? { href: taskAddress(created[0].retried_as), text: "Open it" } : null;
  say(`${parts.join("; ")}.`, created.length || !answers.length ? "note" : "error", link);
}

/** Each sentence once, with how often it was said; the rest is counted. */
function reasons(messages) {
  const counts = new Map();
  for (const message of messages) counts.set(message, (counts.get(message) ?? 0) + 1);
  const said = [...counts].sort((a, b) => b[1] - a[1]);
  const shown = said.slice(0, 3).map(([message, times]) => (times > 1 ? `${message} (${times})` : message));
  return shown.join(", ") + (said.length > shown.length ? `, and ${said.length - shown.length} other reasons` : "");
}

/** Cancels tasks and says what came of it; returns their statuses. */
export async function cancelTasks(keys) {
  const statuses = await inPieces(keys, (tasks) => call("POST", "/v1/operator/cancel", { body: { tasks } }));
  const cancelled = statuses.filter((status) => status.status === "error" && status.result === "cancelled").length;
  const others = statuses.length - cancelled;
  say(`${many(cancelled, "task")} cancelled${others ? `; ${count(others)} had ended before` : ""}.`);
  return statuses;
}
