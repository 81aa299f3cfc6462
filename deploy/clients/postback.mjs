// A client of the dispatcher in one file: nothing to install, for Node.js 18 or later, and wherever
// there is `fetch`. Copy it.
//
//   import { PostbackClient } from "./postback.mjs";
//
//   const client = new PostbackClient({ baseUrl: "http://127.0.0.1:8600", apiKey });
//   const job = await client.jobs.submit("document-gen", { pages: 3 }, { tags: { team: "a" } });
//   const done = await client.jobs.wait(job.id, { timeoutMs: 600_000 });
//   console.log(done.status, done.output);
//   for await (const one of client.jobs.watch(job.id)) console.log(one.what, one.output);
//
// `TensorOneClient` has the names of TensorOne's SDK instead (`endpoints.executeAsync`,
// `jobs.getStatus`, `jobs.watchStatus`), against the same gateway.
//
// 429, 503, lost connections and lost answers are tried again, within `retries` and `retryForMs`;
// `Retry-After` is honoured. Each submit has an idempotency key, its own unless you give one: one
// that is sent again is the same job. What fails is thrown as a PostbackError. Whoever has an API
// key may do what it allows: keep it on a server, out of pages.

const SENT_AGAIN = new Set([429, 503]);
const LOST = new Set([502, 504]); // by a proxy's word; or the end of a job, which is final
const ENDS_OF_JOBS = new Set(["JOB_FAILED", "JOB_TIMEOUT", "JOB_CANCELLED"]);
const TOLD = new Set(["status", "progress", "output"]);
const FINAL = new Set(["completed", "failed", "cancelled", "timeout"]);
const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 5_000;
const HOLD_S = 25; // how long one answer to a wait is held: many proxies cut after 30 s or 60 s
const HOLD_S_MAX = 240; // the service takes 300; the fetch of Node.js gives up then
const EVENTS_IDLE_MS = 60_000; // without a word of a stream of events: then it is begun again
const EVENT_CHARS_MAX = 16 * 1024 * 1024;
const OCTETS = "application/octet-stream";

/**
 * What the service, or the way to it, answered but success.
 * `code` is for programs (`QUEUE_FULL`, `NOT_FOUND`, `UNREACHABLE`, …), `status` the HTTP status
 * (undefined where no answer came), `details` what the service added, `requestId` the word to look
 * for in its log, `retryAfterS` how long it asks to wait.
 */
export class PostbackError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ status?: number, details?: Record<string, any>, requestId?: string,
   *           retryAfterS?: number, cause?: unknown }} [more]
   */
  constructor(code, message, { status, details, requestId, retryAfterS, cause } = {}) {
    super(`${code}: ${message}`, cause === undefined ? undefined : { cause });
    this.name = "PostbackError";
    this.code = code;
    this.status = status;
    this.details = details ?? {};
    this.requestId = requestId;
    this.retryAfterS = retryAfterS;
  }
}

/** A job had not ended in time. It goes on; `id` says which, `details.status` how it was last. */
export class WaitTimeout extends PostbackError {
  /** @param {string} id @param {string | undefined} status @param {number} timeoutMs */
  constructor(id, status, timeoutMs) {
    super("WAIT_TIMEOUT", `${id} is still ${status ?? "unknown"} after ${timeoutMs} ms`, {
      details: { id, status },
    });
    this.name = "WaitTimeout";
    this.id = id;
  }
}

/**
 * @typedef {object} ClientOptions
 * @property {string} [baseUrl] the service's, with or without `/v1` or `/v2`
 *   (http://127.0.0.1:8600)
 * @property {string} [apiKey]
 * @property {string} [tenant] whom to act for, with a platform's key
 * @property {number} [retries] how often a request is tried again (5)
 * @property {number} [retryForMs] and for how long, all tries together (60,000)
 * @property {number} [timeoutMs] how long one try may take (35,000)
 * @property {typeof fetch} [fetch] another `fetch`
 */

/**
 * @typedef {object} JobOptions
 * @property {string} [callbackUrl] where its end is told, …
 * @property {string} [destination] … or the name of a registered destination
 * @property {string | object} [policy] how that is tried: a preset's name, or a policy
 * @property {Record<string, string>} [callbackHeaders] added to it
 * @property {"high" | "normal" | "low"} [priority]
 * @property {Record<string, string>} [tags] to find it by
 * @property {string} [function] which function of the endpoint
 * @property {Date | string | number} [notBefore] when it may first run: a time, or seconds from now
 * @property {number | string} [timeout] how long a call may take: seconds, or as "15m"
 * @property {number | string} [ttl] how long all of it, waiting included
 * @property {string} [contentType] of an input that is bytes (application/octet-stream)
 * @property {string} [idempotencyKey]
 * @property {number} [wait] so many seconds (240 at most) the answer is held for the output
 * @property {AbortSignal} [signal]
 */

/** The HTTP of both clients. */
class Connection {
  #url;
  #headers;
  #retries;
  #retryForMs;
  #timeoutMs;
  #fetch;

  /** @param {ClientOptions} options */
  constructor({ baseUrl, apiKey, tenant, retries, retryForMs, timeoutMs, fetch } = {}) {
    const url = String(baseUrl ?? "http://127.0.0.1:8600");
    this.#url = url.replace(/\/+$/, "").replace(/\/v[12]$/, "");
    if (!/^https?:\/\/[^/?#]+/.test(this.#url)) {
      throw new TypeError("baseUrl must look like http://127.0.0.1:8600");
    }
    this.#headers = {};
    if (apiKey !== undefined) this.#headers.Authorization = `Bearer ${visible("apiKey", apiKey)}`;
    if (tenant !== undefined) this.#headers["Postback-Tenant"] = visible("tenant", tenant);
    this.#retries = retries ?? 5;
    this.#retryForMs = retryForMs ?? 60_000;
    this.#timeoutMs = timeoutMs ?? 35_000;
    this.#fetch = fetch ?? ((...request) => globalThis.fetch(...request));
  }

  /** Sends a request until it succeeds, and returns its answer with the body read. */
  async send(method, path, options = {}) {
    const { query, headers, body, holdS = 0, repeatable = true, signal, withinMs } = options;
    // Headers that none can carry are refused here: they are no lost connection.
    const all = new Headers({ ...this.#headers, ...headers });
    const request = { method, headers: all, body, redirect: "manual" };
    const url = this.#url + path + search(query);
    const timeoutMs = Math.min(this.#timeoutMs + holdS * 1_000, withinMs ?? Infinity);
    const endsMs = now() + Math.min(this.#retryForMs + holdS * 1_000, withinMs ?? Infinity);
    for (let tries = 1; ; tries++) {
      const { answer, error, again } = await this.#try(url, request, timeoutMs, repeatable, signal);
      if (answer !== undefined) return answer;
      const waitMs = error.retryAfterS === undefined ? backoffMs(tries) : error.retryAfterS * 1_000;
      if (!again || tries > this.#retries || now() + waitMs > endsMs) throw error;
      await sleep(waitMs, signal);
    }
  }

  async #try(url, request, timeoutMs, repeatable, signal) {
    signal?.throwIfAborted();
    const timer = new AbortController();
    const late = setTimeout(() => timer.abort(), timeoutMs);
    const stop = () => timer.abort();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      const response = await this.#fetch(url, { ...request, signal: timer.signal });
      const { ok, status, headers } = response;
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (ok) return { answer: { status, headers, bytes } };
      const error = errorOf(response, bytes);
      const lost = repeatable && LOST.has(status) && !ENDS_OF_JOBS.has(error.code);
      return { error, again: SENT_AGAIN.has(status) || lost };
    } catch (cause) {
      signal?.throwIfAborted();
      const isLate = timer.signal.aborted;
      const why = isLate ? `no whole answer within ${timeoutMs} ms` : reasonOf(cause);
      const error = new PostbackError("UNREACHABLE", `${url}: ${why}`, { cause });
      return { error, again: repeatable };
    } finally {
      clearTimeout(late);
      signal?.removeEventListener("abort", stop);
    }
  }

  /** The same, of an answer that is JSON. */
  async json(method, path, options) {
    return parse(await this.send(method, path, options));
  }

  /**
   * Server-sent events behind the one with the id `last`, each `{ name, id, data }`, until the
   * stream ends, or breaks; none where there is none.
   * @returns {AsyncGenerator<{ name: string, id?: string, data: any }>}
   */
  async *events(path, signal, last) {
    const timer = new AbortController();
    let idle;
    const alive = () => {
      clearTimeout(idle);
      idle = setTimeout(() => timer.abort(), EVENTS_IDLE_MS);
    };
    const stop = () => timer.abort();
    signal?.addEventListener("abort", stop, { once: true });
    alive();
    try {
      const headers = { ...this.#headers, Accept: "text/event-stream" };
      if (last !== undefined) headers["Last-Event-ID"] = last;
      const request = { headers, signal: timer.signal, redirect: "manual" };
      const response = await this.#fetch(this.#url + path, request);
      const kind = response.headers.get("content-type") ?? "";
      if (!response.ok || !kind.startsWith("text/event-stream")) return;
      yield* eventsOf(response.body, alive);
    } catch {
      signal?.throwIfAborted(); // else it broke: whoever watches asks again
    } finally {
      clearTimeout(idle);
      signal?.removeEventListener("abort", stop);
      timer.abort(); // nobody reads the rest
    }
  }

  /** All items of a listing, page after page. */
  async *pages(path, query, name, signal) {
    let cursor;
    do {
      const page = await this.json("GET", path, { query: { ...query, cursor }, signal });
      yield* page[name];
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
  }
}

/** The dispatcher and its gateway: `jobs` and `callbacks`. */
export class PostbackClient {
  /** @param {ClientOptions} [options] */
  constructor(options) {
    const connection = new Connection(options);
    this.jobs = new Jobs(connection);
    this.callbacks = new Callbacks(connection);
  }
}

class Jobs {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * Hands over a job; when this resolves it is on the service's disk. `input` is any JSON value, or
   * bytes (Uint8Array, ArrayBuffer, Blob), which go to the endpoint's upstream as they are. With
   * `wait` its output is there (`output`: JSON, a text, or bytes) where it comes in time; else it
   * goes on, and where it ends otherwise JOB_FAILED, JOB_TIMEOUT or JOB_CANCELLED is thrown.
   * @param {string} endpoint
   * @param {any} input
   * @param {JobOptions} [options]
   * @returns {Promise<{ id: string, endpoint: string, status: string, duplicate: boolean,
   *                     createdAt?: string, position?: number, output?: any }>}
   */
  async submit(endpoint, input, options = {}) {
    const bytes = isBytes(input);
    const { wait, policy } = options;
    const holdS = held(wait);
    const answer = await this.#connection.send("POST", `/v1/endpoints/${segment(endpoint)}/jobs`, {
      headers: given({
        "Content-Type": options.contentType ?? (bytes ? OCTETS : "application/json"),
        "Idempotency-Key": options.idempotencyKey ?? uniqueKey(),
        "Postback-Callback-Url": options.callbackUrl,
        "Postback-Destination": options.destination,
        "Postback-Policy": typeof policy === "object" ? asciiJson(policy) : policy,
        "Postback-Callback-Headers": pairs(options.callbackHeaders),
        "Postback-Priority": options.priority,
        "Postback-Tags": pairs(options.tags),
        "Postback-Function": options.function,
        "Postback-Not-Before": moment(options.notBefore),
        "Postback-Timeout": seconds(options.timeout),
        "Postback-Ttl": seconds(options.ttl),
        Prefer: wait === undefined ? undefined : `wait=${holdS}`,
      }),
      body: bytes ? input : dumps(input),
      holdS,
      signal: options.signal,
    });
    if (answer.status === 202) return parse(answer);
    const id = /\/v1\/jobs\/([\w-]+)$/.exec(answer.headers.get("location") ?? "")?.[1];
    const output = new Content(answer).value();
    return { id, endpoint, status: "completed", duplicate: false, output };
  }

  /** One job with its state; after `waitS` seconds (240 at most), or its end. */
  get(id, { waitS, signal } = {}) {
    const holdS = held(waitS);
    const query = { wait: holdS || undefined };
    return this.#connection.json("GET", `/v1/jobs/${segment(id)}`, { query, holdS, signal });
  }

  /**
   * One job once it has ended, however it has: `status` says. Lost connections, and a service that
   * starts again, are waited out. Throws WaitTimeout, which keeps the `id`, after `timeoutMs`
   * (Infinity: never).
   */
  async wait(id, { timeoutMs = 60_000, signal } = {}) {
    const endsMs = now() + timeoutMs;
    let status;
    for (let polls = 0; ; polls++) {
      const begunMs = now();
      const withinMs = Math.max(endsMs - begunMs, 500);
      const holdS = Math.floor(Math.min(HOLD_S, withinMs / 1_000));
      try {
        const query = { wait: holdS || undefined };
        const options = { query, holdS, withinMs, signal };
        const job = await this.#connection.json("GET", `/v1/jobs/${segment(id)}`, options);
        if (FINAL.has(job.status)) return job;
        status = job.status;
      } catch (error) {
        const passes = error.code === "UNREACHABLE" || [429, 502, 503, 504].includes(error.status);
        if (!passes || (status === undefined && now() < endsMs)) throw error;
      }
      if (now() >= endsMs) throw new WaitTimeout(id, status, timeoutMs);
      if (holdS > 0 && now() - begunMs >= holdS * 1_000) polls = -1; // it was held
      else await sleep(Math.min(pollMs(polls), endsMs - now()), signal);
    }
  }

  /**
   * What a job does, as it does. `what` is `status`, a state that it comes to, and while it waits its
   * `position`; `progress`; `output`, one chunk of an answer that comes in chunks: an `index` of 0
   * begins anew, since the call is repeated; or `end`, the last one, with the `job`. Where the
   * connection breaks it goes on behind what was there.
   * @param {string} id
   * @returns {AsyncGenerator<{ what: "status" | "progress" | "output" | "end", status?: string,
   *           position?: number, progress?: number, index?: number, output?: any, job?: object }>}
   */
  async *watch(id, { signal } = {}) {
    const path = `/v1/jobs/${segment(id)}`;
    let last;
    for (let polls = 0; ; polls++) {
      for await (const event of this.#connection.events(`${path}/events`, signal, last)) {
        last = event.id ?? last;
        polls = 0;
        if (event.name === "end") {
          yield { what: "end", status: event.data.status, job: event.data };
          return;
        }
        if (TOLD.has(event.name)) yield { ...event.data, what: event.name };
      }
      await this.#connection.json("GET", path, { signal }); // tells why there is no stream
      await sleep(pollMs(polls), signal);
    }
  }

  /** Cancels it at once. One that has ended stays as it is. */
  cancel(id, { reason, signal } = {}) {
    const options = { headers: why(reason), signal };
    return this.#connection.json("POST", `/v1/jobs/${segment(id)}/cancel`, options);
  }

  /** Runs it again: the same id and input, its next run; `force`: also where it is completed. */
  retry(id, { force, reason, signal } = {}) {
    return this.#connection.json("POST", `/v1/jobs/${segment(id)}/retry`, {
      headers: { "Content-Type": "application/json", ...why(reason) },
      body: JSON.stringify(force ? { force: true } : {}),
      repeatable: false,
      signal,
    });
  }

  /** What the upstream answered: `bytes`, `contentType`, and `json()` and `text()`. */
  async output(id, { signal } = {}) {
    const path = `/v1/jobs/${segment(id)}/output`;
    return new Content(await this.#connection.send("GET", path, { signal }));
  }

  /** What it was submitted with. */
  async input(id, { signal } = {}) {
    const path = `/v1/jobs/${segment(id)}/input`;
    return new Content(await this.#connection.send("GET", path, { signal }));
  }

  /**
   * Every job that matches, newest first, fetched page by page as you iterate with `for await`.
   * @param {{ status?: string, endpoint?: string, priority?: string, reason?: string,
   *           since?: Date | string, until?: Date | string, tags?: Record<string, string>,
   *           signal?: AbortSignal }} [filters]
   */
  list({ signal, ...filters } = {}) {
    const names = ["status", "endpoint", "priority", "reason", "since", "until", "tags"];
    return this.#connection.pages("/v1/jobs", filterQuery(filters, names), "data", signal);
  }
}

class Callbacks {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * Hands over a finished job's callback: to `callbackUrl`, or to `destination`, a registered name.
   * Sent again it is the same one: its key is jobId, jobStatus, destination and run, or yours.
   * @param {string} jobId
   * @param {any} payload any JSON value
   * @param {{ callbackUrl?: string, destination?: string, jobStatus?: string, run?: number,
   *           priority?: "high" | "normal", tags?: Record<string, string>,
   *           policy?: string | object, headers?: Record<string, string>,
   *           notBefore?: Date | string | number, idempotencyKey?: string,
   *           signal?: AbortSignal }} options
   */
  submit(jobId, payload, { idempotencyKey, signal, notBefore, ...options } = {}) {
    dumps(payload);
    const time = notBefore instanceof Date ? notBefore.toISOString() : notBefore;
    return this.#connection.json("POST", "/v1/callbacks", {
      headers: given({ "Content-Type": "application/json", "Idempotency-Key": idempotencyKey }),
      body: JSON.stringify({ ...options, notBefore: time, jobId, payload }),
      signal,
    });
  }

  /** One callback with its state. */
  get(id, { signal } = {}) {
    return this.#connection.json("GET", `/v1/callbacks/${segment(id)}`, { signal });
  }
}

/**
 * TensorOne's SDK by its names: `new TensorOneClient({ apiKey, baseUrl })`, where `baseUrl` is the
 * gateway's.
 */
export class TensorOneClient {
  /** @param {ClientOptions} [options] */
  constructor(options) {
    const connection = new Connection(options);
    this.endpoints = new TensorOneEndpoints(connection);
    this.jobs = new TensorOneJobs(connection);
  }
}

/**
 * @typedef {object} ExecuteOptions
 * @property {object} input
 * @property {string} [callbackUrl] where its end is told
 * @property {"high" | "normal" | "low"} [priority]
 * @property {Record<string, string>} [tags]
 * @property {number | string} [timeout]
 * @property {string} [idempotencyKey]
 * @property {AbortSignal} [signal]
 */

/**
 * @typedef {object} JobStatus
 * @property {string} jobId
 * @property {"queued" | "running" | "completed" | "failed" | "cancelled" | "timeout"} status
 * @property {number} [progress] 0 to 100, like the next two where its function told of it
 * @property {string} [currentStep]
 * @property {object} [metadata]
 * @property {string} [startedAt]
 * @property {string} [estimatedCompletion]
 * @property {any} [output] once it is completed
 * @property {string} [error] where it was not
 */

class TensorOneEndpoints {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * Has an endpoint run a job in the background.
   * @param {string} endpointId
   * @param {ExecuteOptions} options
   * @returns {Promise<{ jobId: string, status: string, endpointId: string, priority: string,
   *                     estimatedDuration: number, createdAt: string, statusUrl: string,
   *                     tags: Record<string, string> }>}
   */
  executeAsync(endpointId, options) {
    return this.#execute(endpointId, "runasync", options, { async: true });
  }

  /**
   * Has an endpoint run a job, and waits for its output. One that takes longer than the service
   * waits is still "queued" or "running": ask for it by its `jobId`.
   * @param {string} endpointId
   * @param {ExecuteOptions} options
   * @returns {Promise<{ output?: any, executionTime?: number, status: string, metadata?: object,
   *                     jobId?: string }>}
   */
  execute(endpointId, options) {
    return this.#execute(endpointId, `runsync?wait=${HOLD_S_MAX}`, options, {}, HOLD_S_MAX);
  }

  #execute(endpointId, verb, { idempotencyKey, signal, ...fields }, more, holdS) {
    const key = idempotencyKey ?? uniqueKey();
    return this.#connection.json("POST", `/v2/endpoints/${segment(endpointId)}/${verb}`, {
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: dumps({ ...fields, ...more }),
      holdS,
      signal,
    });
  }
}

class TensorOneJobs {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /** @param {string} jobId @returns {Promise<JobStatus>} */
  getStatus(jobId, { signal } = {}) {
    return this.#connection.json("GET", `/v2/jobs/${segment(jobId)}/status`, { signal });
  }

  /**
   * A job as it is now, and each time that this changes, until it has ended. While its answer comes
   * in chunks, `output` is the list of those that have come. Where the connection breaks it is made
   * again.
   * @param {string} jobId
   * @returns {AsyncGenerator<JobStatus>}
   */
  async *watchStatus(jobId, { signal } = {}) {
    const path = `/v2/jobs/${segment(jobId)}/status`;
    let last;
    let chunks = [];
    const isNew = (update) => {
      const text = JSON.stringify(update);
      return text !== last && ((last = text), true);
    };
    for (let polls = 0; ; polls++) {
      let status = await this.#connection.json("GET", path, { signal });
      if (isNew(status)) yield status;
      if (FINAL.has(status.status)) return;
      for await (const { name, data } of this.#connection.events(path, signal)) {
        polls = 0;
        if (name === "output") {
          const { index, output } = data;
          if (JSON.stringify(chunks[index]) === JSON.stringify(output)) continue; // told again
          chunks = [...chunks.slice(0, index), output];
          yield { ...status, output: chunks };
        } else if (name === "") {
          status = data;
          if (isNew(status)) yield status;
          if (FINAL.has(status.status)) return;
        }
      }
      await sleep(pollMs(polls), signal);
    }
  }

  /** Cancels a job. One that has ended stays as it is. */
  cancel(jobId, { signal } = {}) {
    return this.#connection.json("POST", `/v2/jobs/${segment(jobId)}/cancel`, { signal });
  }

  /** Runs a job again that failed, timed out or was cancelled. */
  retry(jobId, { signal } = {}) {
    const options = { repeatable: false, signal };
    return this.#connection.json("POST", `/v2/jobs/${segment(jobId)}/retry`, options);
  }

  /**
   * Every job in this state, of this endpoint and with these tags, newest first, fetched page by
   * page as you iterate with `for await`.
   * @param {{ status?: string, endpointId?: string, tags?: Record<string, string>,
   *           signal?: AbortSignal }} [filters]
   */
  list({ signal, ...filters } = {}) {
    const query = filterQuery(filters, ["status", "endpointId", "tags"]);
    return this.#connection.pages("/v2/jobs", query, "jobs", signal);
  }
}

/** Bytes, and what they were declared to be. */
class Content {
  constructor({ bytes, headers }) {
    this.bytes = bytes;
    this.contentType = headers.get("content-type") ?? OCTETS;
  }

  text() {
    return new TextDecoder().decode(this.bytes);
  }

  json() {
    return JSON.parse(this.text());
  }

  /** JSON as what it says, a text as a string, anything else as bytes. */
  value() {
    if (/^application\/(?:[\w.+-]+\+)?json\b/i.test(this.contentType)) {
      try {
        return this.json();
      } catch {
        return this.text();
      }
    }
    return /^text\//i.test(this.contentType) ? this.text() : this.bytes;
  }
}

// --- what is sent ---

function visible(name, text) {
  if (!/^[!-~]{1,512}$/.test(text)) throw new TypeError(`${name} must be visible ASCII characters`);
  return text;
}

// A part of a path: one that would name another route is none.
function segment(id) {
  if (typeof id !== "string" || ["", ".", ".."].includes(id)) {
    const message = `nothing has the id ${JSON.stringify(id)}`;
    throw new PostbackError("NOT_FOUND", message, { status: 404 });
  }
  return encodeURIComponent(id);
}

function search(query) {
  const params = new URLSearchParams(given(query ?? {})).toString();
  return params && `?${params}`;
}

// A filter that there is not is refused: without it more would match.
function filterQuery(filters, names) {
  const query = {};
  for (const [name, value] of Object.entries(filters)) {
    if (!names.includes(name)) {
      throw new TypeError(`there is no filter ${name}, only: ${names.join(", ")}`);
    }
    if (value === undefined) continue;
    if (name === "tags") {
      for (const [key, text] of Object.entries(value)) query[`tag.${key}`] = text;
    } else {
      query[name] = value instanceof Date ? value.toISOString() : value;
    }
  }
  return query;
}

function held(seconds) {
  return Math.min(Math.max(Math.ceil(seconds ?? 0), 0), HOLD_S_MAX);
}

function given(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function pairs(map) {
  if (map === undefined) return undefined;
  const encode = ([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`;
  return Object.entries(map).map(encode).join(", ") || undefined;
}

function moment(time) {
  return time instanceof Date ? time.toISOString() : seconds(time);
}

function seconds(length) {
  return typeof length === "number" ? length.toFixed(3).replace(/\.?0+$/, "") : length;
}

function dumps(value) {
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError("it is not JSON");
  return text;
}

function asciiJson(value) {
  const escaped = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return dumps(value).replace(/[^ -~]/g, escaped);
}

function why(reason) {
  return reason === undefined ? {} : { "Postback-Reason": encodeReason(reason) };
}

// A header's characters are bytes: those of the text in UTF-8.
function encodeReason(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function isBytes(value) {
  const isBlob = typeof Blob !== "undefined" && value instanceof Blob;
  return isBlob || value instanceof Uint8Array || value instanceof ArrayBuffer;
}

function uniqueKey() {
  const random = () => Math.random().toString(36).slice(2);
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${random()}${random()}`;
}

// --- what is answered ---

function parse({ status, bytes }) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const message = `HTTP ${status} with an answer that is not Postback's`;
    throw new PostbackError("BAD_ANSWER", message, { status, cause });
  }
}

function errorOf(response, bytes) {
  const status = response.status;
  const asked = response.headers.get("retry-after") ?? "";
  const retryAfterS = /^[0-9]{1,9}$/.test(asked) ? Number(asked) : undefined;
  const text = new TextDecoder().decode(bytes);
  try {
    const { error, message, details, requestId } = JSON.parse(text);
    if (typeof error === "string" && typeof message === "string") {
      return new PostbackError(error, message, { status, details, requestId, retryAfterS });
    }
  } catch {
    // an error page of something between us
  }
  const shown = text.replace(/\s+/g, " ").trim().slice(0, 200) || "empty";
  const foreign = `HTTP ${status} that is not Postback's: ${shown}`;
  return new PostbackError("BAD_ANSWER", foreign, { status, retryAfterS });
}

function reasonOf(error) {
  return error?.cause?.message ?? error?.message ?? String(error);
}

// Events, with their data as JSON. An event that is named "error" ends them: asking again tells why.
async function* eventsOf(body, alive) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  let name = "";
  let id;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      if (rest.length > EVENT_CHARS_MAX) return;
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("id:")) id = line.slice(3).trim();
        else if (line === "") {
          if (name === "error") return;
          if (data.length > 0) yield { name, id, data: JSON.parse(data.join("\n")) };
          data = [];
          name = "";
          id = undefined;
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

// --- time ---

const now = () => performance.now();

// Short at first, so that a job which soon ends is seen at once, then a second.
const pollMs = (polls) => Math.min(1_000, 20 * 2 ** Math.min(polls, 10));

const backoffMs = (tries) =>
  Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(tries - 1, 16)) * (0.5 + Math.random());

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, Math.max(0, ms));
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
