/**
 * The conversations: which messages there are, grouped and in order, and what the user wrote.
 *
 * The server keeps answers, not the user's words: those stay in this browser (localStorage). In another browser a turn
 * shows the beginning of its text, which travels with the message as `metadata.preview`.
 *
 * A *turn* is one thing the user said, known by `metadata.turn_id`; every try at answering it is a message of its own,
 * the newest of which counts.
 *
 * @module
 */

const ENDED = new Set(["completed", "cancelled", "error"]);
const PREFIX = "reprise.thread.";
const TITLE_LENGTH = 80;
const PREVIEW_LENGTH = 200;

/** @typedef {{id: string, text: string, whole: boolean, message: object | null, tries: object[]}} Turn */
/** @typedef {{id: string, title: string, updatedAt: string, running: boolean, turns: Turn[]}} Thread */

export class Threads {
  /** @type {Map<string, object>} status objects by message id */
  #messages = new Map();
  #heard = new Map();
  #removed = new Set();

  /** Takes a status object from the list, the feed or a send; an older one than known is ignored. */
  apply(status) {
    const known = this.#messages.get(status.message_id);
    if (this.#removed.has(status.message_id) || (known && isOlder(status, known))) return;
    this.#messages.set(status.message_id, { ...known, ...status });
    this.#heard.set(status.message_id, Date.now());
  }

  /**
   * The list as the server has it. What is missing from it, though as new as its oldest, is gone, unless it was heard
   * of after the list had been asked for.
   *
   * @param {object[]} messages newest first @param {boolean} complete whether it goes back to the very first
   * @param {number} askedAt
   */
  replace(messages, complete, askedAt) {
    const listed = new Set(messages.map((message) => message.message_id));
    const oldest = complete ? "" : messages.at(-1)?.created_at;
    for (const [id, known] of this.#messages) {
      if (!listed.has(id) && this.#heard.get(id) < askedAt && known.created_at >= oldest) this.#messages.delete(id);
    }
    for (const message of messages) this.apply(message);
  }

  get(id) {
    return this.#messages.get(id);
  }

  forget(id) {
    this.#removed.add(id);
    this.#messages.delete(id);
  }

  /** All conversations, the one with the newest message first. @returns {Thread[]} */
  all() {
    const groups = new Map();
    for (const message of this.#messages.values()) {
      const id = threadOf(message);
      if (!groups.has(id)) groups.set(id, []);
      groups.get(id).push(message);
    }
    const threads = [...groups].map(([id, messages]) => makeThread(id, messages));
    return threads.sort((a, b) => (a.updatedAt < b.updatedAt ? 1 : -1));
  }

  /** @param {string} id @returns {Thread | undefined} */
  thread(id) {
    const messages = [...this.#messages.values()].filter((message) => threadOf(message) === id);
    return messages.length ? makeThread(id, messages) : undefined;
  }

  /** The metadata a new message carries. @param {Thread | undefined} thread */
  metadata(threadId, thread, turnId, text) {
    return {
      thread_id: threadId,
      turn_id: turnId,
      title: thread?.title || clip(text, TITLE_LENGTH),
      preview: clip(text, PREVIEW_LENGTH),
      source: "page",
    };
  }
}

/** Keeps the user's words; when the browser's store is full, the oldest conversations make room. */
export function keepText(threadId, turnId, text) {
  const kept = { ...readTexts(threadId), [turnId]: text, at: Date.now() };
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      localStorage.setItem(PREFIX + threadId, JSON.stringify(kept));
      return;
    } catch {
      if (!dropOldest(threadId)) return;
    }
  }
}

/** Forgets the words of a turn, or of a whole conversation. */
export function dropTexts(threadId, turnId) {
  const { [turnId]: _, ...rest } = turnId ? readTexts(threadId) : {};
  const left = Object.keys(rest).some((name) => name !== "at");
  if (left) localStorage.setItem(PREFIX + threadId, JSON.stringify(rest));
  else localStorage.removeItem(PREFIX + threadId);
}

function readTexts(threadId) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + threadId)) ?? {};
  } catch {
    return {};
  }
}

function dropOldest(except) {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX) && name !== PREFIX + except);
  const age = (name) => readTexts(name.slice(PREFIX.length)).at ?? 0;
  const [oldest] = names.sort((a, b) => age(a) - age(b));
  if (oldest) localStorage.removeItem(oldest);
  return Boolean(oldest);
}

function threadOf(message) {
  return message.metadata?.thread_id || message.message_id;
}

function isOlder(status, known) {
  if (ENDED.has(known.status) && !ENDED.has(status.status)) return true;
  return status.updated_at && known.updated_at && status.updated_at < known.updated_at;
}

function makeThread(id, messages) {
  messages.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
  const texts = readTexts(id);
  /** @type {Map<string, Turn>} */
  const turns = new Map();
  for (const message of messages) {
    const { turn_id: turnId = message.message_id, preview, title } = message.metadata ?? {};
    const text = texts[turnId] ?? preview ?? title ?? "";
    const turn = turns.get(turnId) ?? { id: turnId, text, whole: turnId in texts, message, tries: [] };
    turn.message = message;
    turn.tries.push(message);
    turns.set(turnId, turn);
  }
  return {
    id,
    title: messages.find((message) => message.metadata?.title)?.metadata.title || "Untitled conversation",
    updatedAt: messages.at(-1).created_at,
    running: messages.some((message) => !ENDED.has(message.status)),
    turns: [...turns.values()],
  };
}

function clip(text, length) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > length ? `${[...line].slice(0, length - 1).join("")}…` : line;
}

/** Whether a message has ended, by its status object. */
export function hasEnded(status) {
  return ENDED.has(status.status);
}
