/**
 * Following integrations until they end: live where a connection can be had, else by asking now and then.
 *
 * Choices:
 *
 * 1. A browser opens six connections to a server, for all tabs together. The hub holds two, an upload one, and a request
 *    must always find one: two are left for event streams. Tabs share them by locks, where the browser has those (on
 *    secure pages); else each tab counts its own.
 * 2. An event stream begins with all that was told, from before the status that is known here too: what is older than
 *    that status is dropped. So the end of an earlier run, before a retry, ends nothing.
 *
 * @module
 */

const STREAMS = 2;
const ASK_MS = 5_000;
const ENDS = new Set(["completed", "failed", "cancelled"]);
const KINDS = ["progress", "item_error", "log", "gap", ...ENDS];

/**
 * @typedef {object} Followed
 * @property {string} id
 * @property {number} seq the last event taken
 * @property {string} since `last_activity` of the newest status known
 * @property {EventSource | null} source
 * @property {(() => void) | null} release gives its connection back
 */

export class Watching {
  /** @type {Map<string, Followed>} */
  #followed = new Map();
  #resting = true;
  #filling = false;
  #asking = false;
  #timer = 0;

  /**
   * @param {import("../client.js").Reprise} client
   * @param {object} on
   * @param {(id: string, status: object, error: object | null) => void} on.status news, and the item that failed
   * @param {(id: string, cut: boolean) => void} on.line whether the server is out of reach
   * @param {(id: string, seq: number) => void} on.end
   * @param {(id: string) => void} on.gone
   */
  constructor(client, on) {
    this.client = client;
    this.on = on;
  }

  /** @param {string} id @param {string} since @param {number} [seq] the last event already taken */
  follow(id, since, seq = 0) {
    if (this.#followed.has(id)) return;
    this.#followed.set(id, { id, seq, since, source: null, release: null });
    this.#fill();
  }

  leave(id) {
    const one = this.#followed.get(id);
    if (!one) return;
    this.#followed.delete(id);
    this.#close(one);
    this.#fill();
  }

  /** Begins, or goes on, to hear. */
  wake() {
    if (!this.#resting) return;
    this.#resting = false;
    this.#timer = setInterval(() => this.#ask(), ASK_MS);
    this.#fill();
  }

  /** Gives every connection back; nothing is forgotten. */
  rest() {
    this.#resting = true;
    clearInterval(this.#timer);
    for (const one of this.#followed.values()) this.#close(one);
  }

  /** Gives free connections to those that have none. */
  async #fill() {
    if (this.#filling) return;
    this.#filling = true;
    try {
      for (const one of this.#followed.values()) {
        if (this.#resting) break;
        if (!one.release && !(await this.#open(one))) break;
      }
    } finally {
      this.#filling = false;
    }
  }

  /** @param {Followed} one @returns {Promise<boolean>} whether there may be a connection for another one, too */
  async #open(one) {
    const release = await free();
    if (!release) return false;
    one.release = release;
    try {
      const { token } = await this.client.request("POST", "v1/stream-tokens", { body: { integration_id: one.id } });
      if (this.#resting || one.release !== release) return true; // no longer wanted
      const query = new URLSearchParams({ after: one.seq, token });
      one.source = new EventSource(`${this.client.baseUrl}v1/integrations/${encodeURIComponent(one.id)}/events?${query}`);
    } catch (error) {
      if (error.status === undefined) throw error;
      return true; // it is asked for instead, and a connection tried again after that
    } finally {
      if (!one.source) this.#close(one);
    }
    for (const kind of KINDS) one.source.addEventListener(kind, (event) => this.#take(one, JSON.parse(event.data)));
    one.source.addEventListener("open", () => this.on.line(one.id, false));
    one.source.addEventListener("error", ({ target }) => {
      this.on.line(one.id, true);
      if (target.readyState === EventSource.CLOSED) this.#close(one); // refused: it does not come back by itself
    });
    return true;
  }

  #close(one) {
    one.source?.close();
    one.release?.();
    one.source = one.release = null;
  }

  #take(one, event) {
    if (this.#followed.get(one.id) !== one) return;
    if (event.type === "gap") one.seq = event.earliest - 1;
    if (event.type === "gap" || event.seq <= one.seq) return;
    one.seq = event.seq;
    this.#news(one, event.status, event.error ?? null);
  }

  #news(one, status, error) {
    if (status.last_activity < one.since) return;
    one.since = status.last_activity;
    this.on.status(one.id, status, error);
    if (!ENDS.has(status.status)) return;
    this.leave(one.id);
    this.on.end(one.id, one.seq);
  }

  /** Asks how those are that have no connection. */
  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      for (const one of [...this.#followed.values()]) {
        if (!this.#resting && !one.source) await this.#askFor(one);
      }
    } finally {
      this.#asking = false;
    }
    this.#fill();
  }

  async #askFor(one) {
    const place = `v1/integrations/${encodeURIComponent(one.id)}/status?include_errors=false`;
    let status;
    try {
      status = await this.client.request("GET", place);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (error.status !== 404) return this.on.line(one.id, true);
      this.leave(one.id);
      return this.on.gone(one.id);
    }
    this.on.line(one.id, false);
    if (this.#followed.get(one.id) === one) this.#news(one, status, null);
    return undefined;
  }
}

const taken = new Set();

/** One of the connections there may be, as what gives it back; null when all are in use. */
async function free() {
  await new Promise((resolve) => setTimeout(resolve)); // a lock given back just now is free in the next task only
  for (let number = 0; number < STREAMS; number++) {
    const release = await (navigator.locks ? lock(`reprise.bring.${number}`) : own(number));
    if (release) return release;
  }
  return null;
}

function lock(name) {
  return new Promise((resolve) => {
    navigator.locks.request(name, { ifAvailable: true }, (held) =>
      held ? new Promise((release) => resolve(release)) : resolve(null),
    );
  });
}

function own(number) {
  if (taken.has(number)) return null;
  taken.add(number);
  return () => taken.delete(number);
}
