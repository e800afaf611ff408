/**
 * The browser client of Reprise: send a message, observe it with exact resume, cancel it. No dependencies.
 *
 *     import { Reprise } from "https://your-server/client.js";
 *
 *     const reprise = new Reprise({ key: "rp_live_…" });
 *     const { messageId } = await reprise.send({ messages: [{ role: "user", content: "Hello" }] });
 *     await reprise.observe(messageId, {
 *       onEvent: (event) => { if (event.type === "content_block_delta") show(event.delta.text); },
 *     });
 *
 * `observe` survives whatever happens to the connection: it reconnects from the last event it handed over, so every
 * event arrives once and in order. Three events tell you to drop the text you hold because the answer begins anew:
 * `message_start`, `message_restart` (another worker took over) and `gap` (history was lost; what is left follows).
 *
 * @module
 */

const TERMINAL = new Set(["message_stop", "message_cancelled", "error"]);
const SILENCE_MS = 45_000; // three of the server's pings
const LONGEST_PAUSE_MS = 30_000;
const SILENCE = new Error("the line was silent for too long");
const SETTLED_MS = 5_000; // a connection that lasted this long was a good one

/**
 * @typedef {object} StreamEvent One event of a message, as the server sent it.
 * @property {string} type `message_start`, `content_block_delta`, … `message_stop`, `message_cancelled` or `error`;
 *   besides `gap`, and `not_found` for a message that cannot be read
 * @property {string} message_id
 * @property {number} [seq] its number; dense within an attempt. `gap` and `not_found` have none
 */

/**
 * @typedef {object} ConnectionState
 * @property {"connecting" | "open" | "waiting"} state
 * @property {number} [attempt] failed attempts in a row, from 1
 * @property {number} [retryInMs] when `waiting`: the pause before the next attempt
 */

/** What the server refused, or `status` 0 when it could not be reached. */
export class RepriseError extends Error {
  /** @param {number} status @param {string} code @param {string} message @param {object} [details] @param {number} [retryAfter] */
  constructor(status, code, message, details = {}, retryAfter = 0) {
    super(message);
    this.name = "RepriseError";
    /** HTTP status, 0 when there was no answer. */
    this.status = status;
    /** The server's code, for example `UNAUTHORIZED` or `MESSAGE_NOT_FOUND`. */
    this.code = code;
    this.details = details;
    /** Seconds the server asks to wait, 0 when it named none. */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get retryable() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export class Reprise {
  #key;

  /**
   * @param {object} options
   * @param {string} [options.baseUrl] the server; by default the one this file came from
   * @param {string} options.key an API key, or a stream token (which may observe and cancel only)
   */
  constructor({ baseUrl = new URL(".", import.meta.url).href, key }) {
    this.baseUrl = baseUrl.replace(/\/*$/, "/");
    this.#key = key;
  }

  /**
   * Starts a message. The answer is generated whether or not anybody watches. A lost reply is asked for again under
   * the same `Idempotency-Key`, so one call makes one message.
   *
   * @param {object} body `{model, messages, metadata, …}`: the body of `POST /v1/messages/async`
   * @param {object} [options]
   * @param {string} [options.messageId] an id of your own choice
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<{messageId: string, status: string, streamUrl: string, token: string, createdAt: string}>}
   *   `streamUrl` with `?token=` is what an `EventSource` takes
   */
  async send(body, { messageId, signal } = {}) {
    const query = messageId ? `?message_id=${encodeURIComponent(messageId)}` : "";
    const headers = { "Idempotency-Key": randomId() };
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await this.request("POST", `v1/messages/async${query}`, { body, headers, signal });
        return {
          messageId: answer.message_id,
          status: answer.status,
          streamUrl: answer.stream_url,
          token: answer.stream_token,
          createdAt: answer.created_at,
        };
      } catch (error) {
        const again = error instanceof RepriseError && (error.status === 0 || error.status === 503) && attempt < 4;
        if (!again) throw error;
        await pause(Math.max(error.retryAfter * 1000, 400 * 2 ** attempt), signal);
      }
    }
  }

  /** Its status object. @param {string} id */
  status(id) {
    return this.request("GET", `v1/messages/async/${encodeURIComponent(id)}/status`);
  }

  /** The message so far: `{role, content, usage, stop_reason, status}`. @param {string} id */
  message(id) {
    return this.request("GET", `v1/messages/async/${encodeURIComponent(id)}`);
  }

  /** Stops it for good; 409 when it had already completed or failed. @param {string} id */
  cancel(id) {
    return this.request("POST", `v1/messages/async/${encodeURIComponent(id)}/cancel`);
  }

  /**
   * Deletes it, cancelling it first if need be; with `memories` also what was remembered from it alone.
   * @param {string} id @param {{memories?: boolean}} [options] @returns {Promise<void>}
   */
  async remove(id, { memories = false } = {}) {
    await this.request("DELETE", `v1/messages/async/${encodeURIComponent(id)}${memories ? "?memories=true" : ""}`);
  }

  /**
   * Your messages, newest first.
   * @param {{status?: string, threadId?: string, userId?: string, limit?: number, cursor?: string, signal?: AbortSignal}} [filter]
   * @returns {Promise<{messages: object[], nextCursor: string | null}>}
   */
  async list({ status, threadId, userId, limit = 20, cursor, signal } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    for (const [name, value] of Object.entries({ status, thread_id: threadId, user_id: userId, cursor })) {
      if (value) query.set(name, value);
    }
    const answer = await this.request("GET", `v1/messages/async?${query}`, { signal });
    return { messages: answer.messages, nextCursor: answer.next_cursor ?? null };
  }

  /**
   * A token that can be shown to a browser's `EventSource`.
   * @param {{messageIds?: string[], feed?: boolean}} what
   * @returns {Promise<{token: string, expires_at: string}>}
   */
  streamToken({ messageIds, feed }) {
    return this.request("POST", "v1/stream-tokens", { body: feed ? { feed } : { message_ids: messageIds } });
  }

  /**
   * Watches one message, or several on one connection, until all have ended.
   *
   * @param {string | string[]} ids
   * @param {object} options
   * @param {number | Record<string, number>} [options.after] the last `seq` you have (per id, for several); from the
   *   start when absent
   * @param {(event: StreamEvent) => void} options.onEvent called once per event, in order
   * @param {(state: ConnectionState) => void} [options.onState]
   * @param {AbortSignal} [options.signal] stops watching; the message goes on
   * @returns {Promise<Record<string, number>>} the cursor reached per id. Rejects with `RepriseError` when the key is
   *   refused, and with the signal's reason when aborted
   */
  async observe(ids, { after = 0, onEvent, onState = () => {}, signal }) {
    const several = Array.isArray(ids);
    const watch = new Watch(several ? ids : [ids], after, onEvent);
    await this.#follow({
      url: () => (several ? watch.manyUrl() : watch.oneUrl()),
      onFrame: (frame) => watch.take(frame),
      done: () => watch.done,
      missing: () => watch.allMissing(),
      onState,
      signal,
    });
    return Object.fromEntries(watch.cursors);
  }

  /**
   * Follows the account's feed of events (`message.created`, `message.completed`, …) until aborted.
   *
   * @param {object} options
   * @param {(event: {event: string, data: object, timestamp: string}) => void} options.onEvent
   * @param {(state: ConnectionState) => void} [options.onState]
   * @param {string[]} [options.kinds] only these
   * @param {string} [options.lastEventId] resume after this one
   * @param {AbortSignal} [options.signal]
   */
  async events({ onEvent, onState = () => {}, kinds, lastEventId = "", signal }) {
    let cursor = lastEventId;
    await this.#follow({
      url: () => `v1/events${kinds ? `?kinds=${kinds.join(",")}` : ""}`,
      headers: () => (cursor ? { "Last-Event-ID": cursor } : {}),
      onFrame: (frame) => {
        if (frame.id) cursor = frame.id;
        if (frame.data) onEvent(JSON.parse(frame.data));
      },
      onState,
      signal,
    });
  }

  /** One stream kept open: reconnects after growing, jittered pauses, which an event or a lasting line starts anew. */
  async #follow({ url, headers = () => ({}), onFrame, done = () => false, missing, onState, signal }) {
    let retryMs = 1000;
    let failures = 0;
    while (!done()) {
      signal?.throwIfAborted();
      onState({ state: "connecting", attempt: failures });
      const line = new Line(signal);
      let openedAt = Infinity;
      try {
        const response = await this.#fetch("GET", url(), { headers: headers(), signal: line.signal });
        if (response.status === 204) return;
        line.heard();
        openedAt = Date.now();
        onState({ state: "open" });
        for await (const frame of readEvents(response.body, () => line.heard())) {
          if (frame.retry !== undefined) retryMs = frame.retry;
          if (frame.data === undefined) continue;
          failures = 0;
          onFrame(frame);
          if (done()) return;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error.status === 404 && missing) return missing();
        if (!(error instanceof RepriseError) || !error.retryable) throw error;
        retryMs = Math.max(retryMs, error.retryAfter * 1000);
      } finally {
        line.close();
      }
      if (Date.now() - openedAt > SETTLED_MS) failures = 0;
      failures += 1;
      const retryInMs = Math.min(LONGEST_PAUSE_MS, retryMs * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
      onState({ state: "waiting", attempt: failures, retryInMs });
      await pause(retryInMs, signal, true);
    }
  }

  /**
   * Any other route, for example `request("POST", "v1/memories/search", { body: { query: "…" } })`.
   * @param {string} method @param {string} path
   * @param {{body?: object, headers?: object, signal?: AbortSignal, as?: "json" | "blob"}} [options]
   * @returns {Promise<any>} the JSON, or the bytes where asked for; null for 204
   */
  async request(method, path, { as = "json", ...options } = {}) {
    const response = await this.#fetch(method, path, options);
    return response.status === 204 ? null : response[as]();
  }

  async #fetch(method, path, { body, headers = {}, signal } = {}) {
    const all = { ...headers, "X-API-Key": this.#key };
    if (body !== undefined) all["Content-Type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    let response;
    try {
      response = await fetch(this.baseUrl + path, { method, headers: all, body: text, signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted && signal.reason !== SILENCE) throw error;
      throw new RepriseError(0, "UNREACHABLE", "The server cannot be reached.");
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

/** What is known of the messages being observed: a cursor each, and which have ended. */
class Watch {
  /** @param {string[]} ids @param {number | Record<string, number>} after @param {(event: StreamEvent) => void} onEvent */
  constructor(ids, after, onEvent) {
    this.cursors = new Map(ids.map((id) => [id, (typeof after === "number" ? after : after[id]) || 0]));
    this.open = new Set(ids);
    this.rewound = new Set();
    this.onEvent = onEvent;
  }

  get done() {
    return this.open.size === 0;
  }

  oneUrl() {
    const [[id, cursor]] = this.cursors;
    return `v1/messages/async/${encodeURIComponent(id)}/stream${cursor ? `?after=${cursor}` : ""}`;
  }

  manyUrl() {
    const open = [...this.open];
    const vector = open.filter((id) => this.cursors.get(id)).map((id) => `${id}:${this.cursors.get(id)}`);
    const after = vector.length ? `&after=${vector.join(",")}` : "";
    return `v1/messages/async/stream?ids=${open.join(",")}${after}`;
  }

  /** One frame: whatever the cursor already covers is dropped, except after a gap, when the log begins again. */
  take(frame) {
    const event = JSON.parse(frame.data);
    const id = (event.message_id ??= this.cursors.keys().next().value);
    if (!this.open.has(id)) return;
    if (event.type === "gap") this.rewound.add(id);
    if (event.seq !== undefined) {
      if (event.seq <= this.cursors.get(id) && !this.rewound.has(id)) return;
      this.rewound.delete(id);
      this.cursors.set(id, event.seq);
    }
    if (TERMINAL.has(event.type) || event.type === "not_found") this.open.delete(id);
    this.onEvent(event);
  }

  allMissing() {
    for (const id of [...this.open]) this.take({ data: JSON.stringify({ type: "not_found", message_id: id }) });
  }
}

/** One connection: aborted by the caller's signal, or by a silence so long that the line must be dead. */
class Line {
  #timer;
  #controller = new AbortController();

  /** @param {AbortSignal} [outer] */
  constructor(outer) {
    this.outer = outer;
    this.cut = () => this.#controller.abort(SILENCE);
    outer?.addEventListener("abort", this.cut, { once: true });
    this.heard();
  }

  get signal() {
    return this.#controller.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.cut, SILENCE_MS);
  }

  close() {
    clearTimeout(this.#timer);
    this.outer?.removeEventListener("abort", this.cut);
    this.#controller.abort();
  }
}

/**
 * The frames of a Server-Sent-Events body, by the HTML standard: `{id, event, data, retry}`, each where given.
 * A frame cut off by the end of the body is dropped.
 */
async function* readEvents(body, heard) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let frame = {};
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(() => {
        throw new RepriseError(0, "CUT", "The connection was cut.");
      });
      if (done) return;
      heard();
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") {
          addField(frame, line);
          continue;
        }
        yield frame;
        frame = {};
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function addField(frame, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "data") frame.data = frame.data === undefined ? value : `${frame.data}\n${value}`;
  else if (name === "retry") frame.retry = /^\d+$/.test(value) ? Number(value) : undefined;
  else if (name === "id" || name === "event") frame[name] = value;
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const { code = `HTTP_${response.status}`, message = response.statusText, details } = body?.error ?? {};
  return new RepriseError(response.status, code, message, details, retryAfter);
}

/** Resolves after `ms`; at once when the browser comes back online (if asked to); rejects when aborted. */
function pause(ms, signal, wakeOnline = false) {
  return new Promise((resolve, reject) => {
    const end = (settle) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      globalThis.removeEventListener?.("online", online);
      settle();
    };
    const aborted = () => end(() => reject(signal.reason));
    const online = () => end(resolve);
    const timer = setTimeout(online, ms);
    signal?.addEventListener("abort", aborted, { once: true });
    if (wakeOnline) globalThis.addEventListener?.("online", online, { once: true });
  });
}

/** 128 random bits in hexadecimal; `crypto.randomUUID` needs a secure page, this does not. */
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
