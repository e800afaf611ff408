/**
 * One connection for every answer being watched and one for the account's feed, shared by all who join.
 *
 * In a SharedWorker (`hub-worker.js`) all tabs join one hub, so that seven tabs fit in the six connections a browser
 * opens to a server; where there is none, each tab has its own. A hub always reads a message from its start and keeps
 * its events until the message ends: whoever joins late gets them all, then what follows, each once.
 *
 * @module
 */

/** @typedef {{log: object[], cursor: number, members: Set<Member>, fresh: object[]}} Topic */

export class Hub {
  /** @type {Map<string, Topic>} */
  #topics = new Map();
  #members = new Set();
  #lines = new Map();
  #streams = null;
  #feed = null;
  #restart = 0;
  #flush = 0;

  /** @param {import("../client.js").Reprise} client */
  constructor(client) {
    this.client = client;
  }

  /**
   * @param {(message: object) => void} post receives `{type: "events", id, events}`, `{type: "feed", event}`,
   *   `{type: "line", name: "streams" | "feed", state, attempt}` and `{type: "refused", status, message}`
   * @returns {Member}
   */
  join(post) {
    const member = new Member(this, post);
    this.#members.add(member);
    for (const line of this.#lines.values()) post(line);
    if (!this.#feed) this.#openFeed();
    return member;
  }

  leave(member) {
    for (const id of this.#topics.keys()) this.unwatch(member, id);
    this.#members.delete(member);
    if (this.#members.size > 0) return;
    this.#feed?.abort();
    this.#feed = null;
    this.#lines.clear();
  }

  watch(member, id) {
    let topic = this.#topics.get(id);
    if (!topic) {
      topic = { log: [], cursor: 0, members: new Set(), fresh: [] };
      this.#topics.set(id, topic);
      this.#restartSoon();
    }
    if (topic.members.has(member)) return;
    const past = topic.log.slice(0, topic.log.length - topic.fresh.length);
    topic.members.add(member);
    if (past.length) member.post({ type: "events", id, events: past });
  }

  unwatch(member, id) {
    const topic = this.#topics.get(id);
    if (!topic?.members.delete(member) || topic.members.size > 0) return;
    this.#topics.delete(id);
    this.#restartSoon();
  }

  /** Tries to reconnect now instead of after the pause. */
  wake() {
    globalThis.dispatchEvent(new Event("online"));
  }

  #restartSoon() {
    this.#restart ||= setTimeout(() => {
      this.#restart = 0;
      this.#openStreams();
    });
  }

  async #openStreams() {
    this.#streams?.abort();
    if (this.#topics.size === 0) {
      this.#streams = null;
      return this.#tell({ type: "line", name: "streams", state: "idle" });
    }
    const own = (this.#streams = new AbortController());
    await this.#keep(own, (signal) =>
      this.client.observe([...this.#topics.keys()], {
        after: Object.fromEntries([...this.#topics].map(([id, topic]) => [id, topic.cursor])),
        onEvent: (event) => this.#take(event),
        onState: (state) => this.#tell({ type: "line", name: "streams", ...state }),
        signal,
      }),
    );
  }

  async #openFeed() {
    const own = (this.#feed = new AbortController());
    await this.#keep(own, (signal) =>
      this.client.events({
        onEvent: (event) => this.#tell({ type: "feed", event }),
        onState: (state) => this.#tell({ type: "line", name: "feed", ...state }),
        signal,
      }),
    );
  }

  async #keep(own, follow) {
    try {
      await follow(own.signal);
    } catch (error) {
      if (own.signal.aborted) return;
      if (own === this.#feed) this.#feed = null;
      this.#tell({ type: "refused", status: error.status ?? 0, message: error.message });
      if (error.status === undefined) throw error;
    }
  }

  #take(event) {
    const topic = this.#topics.get(event.message_id);
    if (!topic) return;
    if (event.type === "gap" || event.type === "message_restart") {
      this.#flushNow();
      topic.log.length = 0;
    }
    topic.cursor = event.seq ?? topic.cursor;
    topic.log.push(event);
    topic.fresh.push(event);
    this.#flush ||= setTimeout(() => this.#flushNow());
  }

  #flushNow() {
    clearTimeout(this.#flush);
    this.#flush = 0;
    for (const [id, topic] of this.#topics) {
      if (topic.fresh.length === 0) continue;
      const events = topic.fresh;
      topic.fresh = [];
      for (const member of topic.members) member.post({ type: "events", id, events });
      if (isEnd(events.at(-1))) this.#topics.delete(id);
    }
    if (this.#topics.size === 0) this.#tell({ type: "line", name: "streams", state: "idle" });
  }

  #tell(message) {
    if (message.type === "line") this.#lines.set(message.name, message);
    for (const member of this.#members) member.post(message);
  }
}

/** Who joined a hub: one tab. */
class Member {
  constructor(hub, post) {
    this.hub = hub;
    this.post = post;
  }

  watch(id) {
    this.hub.watch(this, id);
  }

  unwatch(id) {
    this.hub.unwatch(this, id);
  }

  wake() {
    this.hub.wake();
  }

  leave() {
    this.hub.leave(this);
  }
}

/** Whether nothing follows this event of a message. */
export function isEnd(event) {
  return ["message_stop", "message_cancelled", "error", "not_found"].includes(event.type);
}
