/**
 * The JavaScript client of dragon, for browsers and Node 20 or newer.
 *
 * ```js
 * import { Dragon } from "/v1/dragon.js";
 * const dragon = new Dragon({ apiKey: "654321" });
 * const thumb = await dragon.run("image.thumb", { url, width: 200 }, { onProgress: console.log });
 * ```
 *
 * Times are in seconds, as everywhere in dragon.
 */

declare global {
  /** The tasks of your server: `/v1/tasks.d.ts`, beside this file in your project, fills it. */
  // eslint-disable-next-line
  interface DragonTasks {}
}

type AnyTask = { params: Record<string, unknown>; result: any };
type Known = keyof DragonTasks & string;

/** The names of the known tasks; any, while none is known. */
export type TaskName = [Known] extends [never] ? string : Known;
type TaskOf<Name extends string> = Name extends Known ? DragonTasks[Name] : AnyTask;
export type Params<Name extends string> = TaskOf<Name> extends { params: infer P } ? P : never;
export type Result<Name extends string> = TaskOf<Name> extends { result: infer R } ? R : never;

/** A task as `create` and `stream` take it: its name, and its parameters beside it. */
export type TaskDefinition<Name extends string = TaskName> = Name extends unknown
  ? { task_name: Name; task_metas?: Record<string, unknown> } & Params<Name>
  : never;

/** 26 characters A-Z2-7. Whoever has it may read the task: its statuses, result, files and log. */
export type Key = string;

/** One status of one task, always whole. */
export interface Status {
  /** `success` and `error` are final. */
  status: "queued" | "executing" | "success" | "error";
  key: Key;
  /** Dates in ISO 8601. They are missing for a key that nobody knows. */
  events?: { queued: string; started?: string; completed?: string };
  /** Once the task reported one: any JSON value, 0 to 100 by custom. */
  progress?: any;
  /** Of a success; while `executing`, a partial result; of an error its message, or what is wrong with each parameter. */
  result?: any;
  /** While queued, in streams and with `details`: 1 is the next to start. */
  position?: number | null;
  /** While queued, in streams and with `details`: in so many seconds it is expected to end. */
  eta?: number | null;
  // With `details`:
  task_name?: string;
  parameters?: Record<string, unknown>;
  task_metas?: Record<string, unknown> | null;
  attempt?: number;
  worker?: string | null;
  expires?: string | null;
  /** Why a queued task does not start. */
  waiting_for?: string | null;
}

/** One line that a task has logged or printed. */
export interface LogLine {
  /** From 1 on, over all attempts. */
  number: number;
  time: string;
  attempt: number;
  text: string;
}

/** A task ended in an error; the message is for the reader. */
export class TaskError extends Error {
  name: "TaskError";
  /** The final status. */
  status: Status;
  key: Key;
  /** What is wrong with each parameter, if it is that. */
  parameters: Record<string, string[]>;
}

/** A request was refused; the message is for the reader. Others are network errors, as `fetch` throws them. */
export class DragonError extends Error {
  name: "DragonError";
  /** The HTTP status: 400, 401, 404... */
  status: number;
  /** Of a 400: all that is wrong with the request. */
  errors: { name: string; location: "body" | "querystring" | "path" | "header"; description: string }[];
  /** Seconds after which it may be accepted; 0 when waiting does not help. */
  retryAfter: number;
}

export interface Options {
  /** Where the server is. The default is the origin that this module came from; in Node, the variable DRAGON_URL. */
  url?: string | URL;
  /** For pages: an api key, which counts on the account's whitelist only. */
  apiKey?: string;
  /** For programs, never for a page: a secret key. In Node the default is the variable DRAGON_SECRET. */
  secret?: string;
  /** For so many seconds a server that cannot be reached, or is full, is tried again. 300. */
  timeout?: number;
  /** The server's setting `server.heartbeat`, if it is not 15 seconds: twice as long a silence is a cut. */
  heartbeat?: number;
  /** Instead of the global `fetch`. */
  fetch?: typeof fetch;
  /** Called before each repetition, with what went wrong and the seconds until then. */
  onRetry?: (error: Error, seconds: number) => void;
}

export interface FollowOptions {
  /** Ends the following; the tasks go on. */
  signal?: AbortSignal;
}

export interface CreateOptions {
  /** Cancels the tasks, whatever they are doing. */
  signal?: AbortSignal;
  /** A repetition of the same tasks with the same key within a day joins them. The default is a key for each request. */
  idempotencyKey?: string;
}

export interface RunOptions {
  /** Cancels the task, whatever it is doing, and rejects with the signal's reason, an AbortError. */
  signal?: AbortSignal;
  /** Called when the progress has changed, 0 to 100 by custom. */
  onProgress?: (progress: any, status: Status) => void;
  /** Called with every status. */
  onStatus?: (status: Status) => void;
  /** An object of your own, given back with `details`. */
  metas?: Record<string, unknown>;
}

type RunArguments<Name extends string> = {} extends Params<Name>
  ? [params?: Params<Name>, options?: RunOptions]
  : [params: Params<Name>, options?: RunOptions];

/**
 * What is created in one tick of the event loop travels in one request. Streams that are cut are taken up by themselves:
 * no status comes twice, the last is never missed, no task is created twice. Behind a proxy that buffers, statuses are
 * polled. Every call rejects with a `DragonError` or, when the server cannot be reached for `timeout`, a network error.
 */
export class Dragon {
  constructor(options?: Options);

  /** Runs a task and returns its result. Rejects with a `TaskError` when it ends in an error. */
  run<Name extends TaskName>(name: Name, ...rest: RunArguments<Name>): Promise<Result<Name>>;

  /** Creates tasks and returns their first statuses, in order. A task that is wrong by itself is an `error` among them. */
  create(definitions: TaskDefinition | readonly TaskDefinition[], options?: CreateOptions): Promise<Status[]>;

  /** Creates tasks, at once, and iterates over their statuses until all are final. Breaking off does not cancel them. */
  stream(definitions: TaskDefinition | readonly TaskDefinition[], options?: CreateOptions): AsyncGenerator<Status, void>;
  /** As `follow`. */
  stream(keys: Key | readonly Key[], options?: FollowOptions): AsyncGenerator<Status, void>;

  /** Iterates over the statuses of existing tasks, from the present ones until all are final. */
  follow(keys: Key | readonly Key[], options?: FollowOptions): AsyncGenerator<Status, void>;

  /** The present statuses, in the order of the keys; with `block`, once all are final, or after `timeout` seconds (300). */
  status(
    keys: Key | readonly Key[],
    options?: { block?: boolean; timeout?: number; details?: boolean; signal?: AbortSignal },
  ): Promise<Status[]>;

  /** Cancels a task of the same account; one that has ended stays as it is. */
  cancel(key: Key, options?: FollowOptions): Promise<Status>;

  /** Waits for a task and fetches its output file: `name`, unless it has a single one. Rejects with its `TaskError`. */
  file(key: Key, name?: string, options?: FollowOptions): Promise<Response>;

  /** `fetch` of any other call of the API, as `tasks`, tried again like all; rejects with a `DragonError`. */
  fetch(path: string, init?: RequestInit): Promise<Response>;

  /** The `src` of an `<img>` that runs a task, or shows what it made before. The api key is in it, never a secret one. */
  imgUrl<Name extends TaskName>(name: Name, params?: Params<Name>, options?: { filename?: string }): string;

  /** Iterates over the lines that a task has logged, after number `after`; with `follow`, until it has ended. */
  log(key: Key, options?: { after?: number; follow?: boolean; signal?: AbortSignal }): AsyncGenerator<LogLine, void>;
}
