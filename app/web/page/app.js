/**
 * The chat page put together: signing in, the list at the side, the conversation, the composer.
 *
 * The address bar's fragment says which conversation is open (`#c=…`); a key that comes in it (`#key=…`) is taken out.
 *
 * @module
 */

import { Reprise } from "../client.js";
import { Bring } from "./bring.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { h } from "./dom.js";
import { Link } from "./link.js";
import { Memories } from "./memories.js";
import { followBottom } from "./scroll.js";
import { Sidebar } from "./sidebar.js";
import { Threads } from "./threads.js";

const KEY = "reprise.key";
const LISTED = 100; // messages asked for at a time
const PAGES = 5; // so many times at most: the list is for finding one's way, not an archive

const part = (id) => document.getElementById(id);

function takeKey() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const key = fragment.get("key");
  if (key) {
    localStorage.setItem(KEY, key);
    fragment.delete("key");
    const rest = fragment.toString();
    history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  }
  return key ?? localStorage.getItem(KEY);
}

function signIn(problem) {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  part("shell").hidden = true;
  part("sign-in").hidden = false;
  part("sign-in-problem").textContent = problem ?? "";
  part("key").focus();
}

/** Tries the key on the list. @returns {Promise<object | null>} the first page, or null where it was refused */
async function tryKey(client) {
  try {
    return await client.list({ limit: LISTED });
  } catch (error) {
    if (error.status === 401) signIn("This key is not known here. Check that all of it was copied.");
    else if (error.status === 403) signIn("This key may not read messages (it lacks the scope messages:read).");
    else return { messages: null };
    return null;
  }
}

async function start(key) {
  const client = new Reprise({ key });
  const first = await tryKey(client);
  if (!first) return false;
  localStorage.setItem(KEY, key);
  part("sign-in").hidden = true;
  part("shell").hidden = false;
  new Page(client, key).open(first);
  return true;
}

class Page {
  #lines = { streams: "idle", feed: "connecting" };
  #failures = 0;
  #bannerTimer = 0;

  constructor(client, key) {
    this.client = client;
    this.key = key;
    this.threads = new Threads();
    this.sidebar = new Sidebar(part("threads"), (id) => this.select(id));
    this.conversation = new Conversation({
      client,
      threads: this.threads,
      element: part("turns"),
      confirm: ask,
      warn,
      onChange: () => this.render(),
    });
    this.composer = new Composer(part("compose"), {
      onSend: (text) => this.send(text),
      onStop: () => this.conversation.stop(),
    });
    this.memories = new Memories(part("memories"), client);
    this.bring = new Bring(part("bring"), { client, key, confirm: ask, jump: (memory) => this.memories.open(memory) });
    this.bottom = followBottom(part("scroll"), part("turns"), part("latest"));
  }

  open(first) {
    this.conversation.link = new Link(this.client, this.key, (message) => this.take(message));
    for (const message of first.messages ?? []) this.threads.apply(message);
    this.listen();
    this.route();
    if (first.nextCursor) this.reload();
  }

  listen() {
    addEventListener("hashchange", () => (takeKey() === this.key ? this.route() : location.reload()));
    document.addEventListener("visibilitychange", () => document.hidden || this.reload());
    part("new").addEventListener("click", () => this.select(null));
    part("delete").addEventListener("click", async () => (await this.conversation.remove()) && this.select(null));
    part("open-memories").addEventListener("click", () => {
      drawer(false);
      this.memories.open();
    });
    part("open-bring").addEventListener("click", () => {
      drawer(false);
      this.bring.open();
    });
    part("sign-out").addEventListener("click", () => {
      localStorage.removeItem(KEY);
      location.replace(location.pathname);
      location.reload();
    });
    part("try-now").addEventListener("click", () => this.conversation.link.wake());
    for (const idea of document.querySelectorAll("#empty button")) {
      idea.addEventListener("click", () => this.composer.fill(idea.textContent));
    }
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
      if (part("shell").classList.contains("drawer")) drawer(false);
      else if (this.conversation.working) this.conversation.stop();
    });
    part("menu").addEventListener("click", () => drawer(true));
    part("veil").addEventListener("click", () => drawer(false));
  }

  /** What the hub posts. */
  take(message) {
    if (message.type === "events") this.conversation.take(message.id, message.events);
    else if (message.type === "feed") this.takeFeed(message.event);
    else if (message.type === "line") this.takeLine(message);
    else if (message.type === "refused" && message.status === 401) signIn("This key is no longer accepted.");
    else if (message.type === "refused") warn(message.message);
  }

  takeFeed({ event, data }) {
    if (!event.startsWith("message.") || !data?.message_id) return;
    this.threads.apply(data);
    this.refresh();
  }

  takeLine({ name, state, attempt = 0 }) {
    const reopened = name === "feed" && state === "open" && this.#lines.feed !== "open";
    if (state !== "connecting" || this.#lines[name] !== "waiting") this.#lines[name] = state;
    if (state === "waiting") this.#failures = attempt;
    if (reopened) this.reload();
    const cut = Object.values(this.#lines).includes("waiting");
    clearTimeout(this.#bannerTimer);
    if (!cut) part("banner").hidden = true;
    else this.#bannerTimer = setTimeout(() => this.showBanner(), part("banner").hidden ? 800 : 0);
  }

  showBanner() {
    const lost = this.#failures > 3;
    part("banner").hidden = false;
    part("banner-text").textContent = lost
      ? "Connection lost. Answers go on meanwhile; this page keeps trying."
      : "Reconnecting…";
    part("try-now").hidden = !lost;
  }

  /** The list anew, as far back as it goes within reason. */
  async reload() {
    const messages = [];
    const askedAt = Date.now();
    let cursor;
    try {
      for (let page = 0; page < PAGES; page++) {
        const answer = await this.client.list({ limit: LISTED, cursor });
        messages.push(...answer.messages);
        cursor = answer.nextCursor;
        if (!cursor) break;
      }
    } catch (error) {
      if (error.status === undefined) throw error;
      return; // the feed's line says that the server is away and asks again once it is back
    }
    this.threads.replace(messages, !cursor, askedAt);
    this.refresh();
  }

  send(text) {
    this.bottom.stick();
    this.conversation.send(text);
    history.replaceState(null, "", `#c=${this.conversation.threadId}`);
    this.render();
  }

  select(threadId) {
    drawer(false);
    const target = threadId ? `#c=${encodeURIComponent(threadId)}` : "";
    history.pushState(null, "", location.pathname + location.search + target);
    this.route();
  }

  route() {
    const threadId = new URLSearchParams(location.hash.slice(1)).get("c");
    this.conversation.show(threadId);
    this.bottom.stick();
    this.render();
    if (matchMedia("(hover: hover)").matches) this.composer.focus();
  }

  refresh() {
    this.conversation.refresh();
    this.render();
  }

  render() {
    const { threadId, working, empty } = this.conversation;
    const threads = this.threads.all();
    const current = threads.find((thread) => thread.id === threadId);
    this.sidebar.render(threads, threadId);
    part("no-threads").hidden = threads.length > 0;
    part("title").textContent = current?.title ?? "New conversation";
    document.title = current ? `${current.title} – Reprise` : "Reprise";
    part("delete").hidden = !current;
    part("empty").hidden = !empty;
    part("lost-thread").hidden = !(empty && threadId);
    part("welcome").hidden = empty && Boolean(threadId);
    if (current?.turns.some((turn) => turn.message.metadata?.model === "demo")) part("demo").hidden = false;
    this.composer.working = working;
  }
}

function drawer(open) {
  part("shell").classList.toggle("drawer", open);
  part("menu").setAttribute("aria-expanded", String(open));
  if (open) part("new").focus();
}

/** Asks before something that cannot be undone. @returns {Promise<{memories: boolean} | null>} null for no */
function ask(text) {
  const dialog = part("confirm");
  part("confirm-text").textContent = text;
  dialog.returnValue = "";
  part("confirm-also").checked = false;
  dialog.showModal();
  return new Promise((resolve) => {
    const answer = () => resolve(dialog.returnValue === "yes" ? { memories: part("confirm-also").checked } : null);
    dialog.addEventListener("close", answer, { once: true });
  });
}

function warn(text) {
  const toast = h("p", { class: "toast" }, text);
  part("toasts").append(toast);
  setTimeout(() => toast.remove(), 6000);
}

for (const [id, value] of [["confirm-yes", "yes"], ["confirm-no", ""]]) {
  part(id).addEventListener("click", () => part("confirm").close(value));
}

part("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = part("key").value.trim();
  if (!key) return signIn("Paste a key first.");
  part("sign-in-go").disabled = true;
  const done = await start(key);
  part("sign-in-go").disabled = false;
  return done;
});

const key = takeKey();
if (key) start(key);
else signIn();
