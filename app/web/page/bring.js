/**
 * Bringing the past along, as a sheet over the page: files are dropped or chosen, sent, followed to their end.
 *
 * Choices:
 *
 * 1. Files are sent one after the other: each upload holds one of the browser's few connections.
 * 2. Documents that come together are one integration, as long as they are small enough to be sent at once.
 *
 * @module
 */

import { called, Card } from "./bring-card.js";
import { kindOf, NotTaken } from "./bring-kinds.js";
import { inWords, send } from "./bring-upload.js";
import { Watching } from "./bring-watch.js";
import { randomId } from "./dom.js";

const PAGE = 20;
const TOGETHER = 100; // documents in one integration
const TOGETHER_BYTES = 20_000_000;
const LONGEST_NAME = 200;
const ME = "reprise.me";
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

export class Bring {
  /** @type {Map<string, Card>} */
  #cards = new Map();
  #waiting = [];
  #sending = false;
  #next = null;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {object} on
   * @param {import("../client.js").Reprise} on.client
   * @param {string} on.key
   * @param {(text: string) => Promise<{memories: boolean} | null>} on.confirm
   * @param {(memory: {id: string, memory: string}) => void} on.jump shows a memory among the others
   */
  constructor(dialog, { client, key, confirm, jump }) {
    this.dialog = dialog;
    this.client = client;
    this.key = key;
    this.confirm = confirm;
    this.jump = jump;
    const part = (selector) => dialog.querySelector(selector);
    [this.list, this.says, this.more, this.told] = [".list", ".said-of-list", ".more", ".told"].map(part);
    [this.platform, this.me, this.files, this.drop] = [".platform", ".me", ".files", ".drop"].map(part);
    this.watching = new Watching(client, {
      status: (id, status, error) => this.#cards.get(id)?.show(status, error),
      line: (id, cut) => this.#cards.get(id)?.cut(cut),
      end: (id, seq) => this.#ended(id, seq),
      gone: (id) => this.#forget(this.#cards.get(id)),
    });
    this.acts = {
      cancel: (card) => this.#cancel(card),
      retry: (card) => this.#retry(card),
      remove: (card) => this.#remove(card),
      again: (card) => this.#enqueue(card),
      dismiss: (card) => this.#forget(card),
      details: (card) => (card.final && card.loaded) || this.#load(card),
      jump: (memory) => {
        dialog.close();
        jump(memory);
      },
    };
    this.#listen(part);
  }

  #listen(part) {
    const { dialog } = this;
    part(".close").addEventListener("click", () => dialog.close());
    part(".choose").addEventListener("click", () => this.files.click());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => this.watching.rest());
    this.more.addEventListener("click", () => this.#page(this.#next));
    this.files.addEventListener("change", () => {
      this.take([...this.files.files]);
      this.files.value = "";
    });
    this.me.value = localStorage.getItem(ME) ?? "";
    this.me.addEventListener("change", () => localStorage.setItem(ME, this.me.value.trim()));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.watching.rest();
      else if (dialog.open) this.watching.wake();
    });
    addEventListener("beforeunload", (event) => (this.#sending || this.#waiting.length) && event.preventDefault());
    this.#listenToDrops();
  }

  /** A file dropped anywhere comes here: else the browser would leave the page to show it. */
  #listenToDrops() {
    const over = (event, yes) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return false;
      event.preventDefault();
      this.drop.classList.toggle("over", yes);
      return true;
    };
    addEventListener("dragover", (event) => over(event, true));
    addEventListener("dragleave", (event) => event.relatedTarget === null && over(event, false));
    addEventListener("drop", (event) => {
      if (!over(event, false) || document.querySelector("dialog[open]:not(#bring)")) return;
      const files = [...event.dataTransfer.files];
      if (!this.dialog.open) this.open();
      this.take(files);
    });
  }

  open() {
    this.dialog.showModal();
    this.watching.wake();
    return this.#page(null);
  }

  /** Sends files, each where it belongs. @param {File[]} files */
  async take(files) {
    const chosen = this.platform.value;
    const kinds = await Promise.all(files.map((file) => kindOf(file, chosen).catch((error) => error)));
    const documents = [];
    files.forEach((file, index) => {
      const kind = kinds[index];
      if (kind instanceof NotTaken) this.#add([file]).refused(kind.message, false);
      else if (kind instanceof Error) throw kind;
      else if (kind.route === "files") documents.push(file);
      else this.#enqueue(this.#add([file], kind));
    });
    for (const some of together(documents)) this.#enqueue(this.#add(some, { route: "files", platform: null }));
    this.dialog.querySelector(".scroll").scrollTop = 0;
  }

  #add(files, kind = null) {
    const card = new Card(named(files), this.acts);
    if (kind) {
      const me = this.me.value.trim();
      const fields = { name: card.name };
      if (kind.platform) fields.platform = kind.platform;
      if (kind.route === "chat" && me) fields.me = me;
      if (kind.route === "chat" && ZONE) fields.zone = ZONE;
      card.sending = { route: kind.route, files, fields, once: randomId() };
    }
    this.list.prepend(card.element);
    this.#count();
    return card;
  }

  #enqueue(card) {
    card.abort = new AbortController();
    card.uploading(card.sending.files, null);
    this.#waiting.push(card);
    this.#sendAll();
  }

  async #sendAll() {
    if (this.#sending) return;
    this.#sending = true;
    try {
      while (this.#waiting.length) await this.#send(this.#waiting.shift());
    } finally {
      this.#sending = false;
    }
  }

  async #send(card) {
    const { files } = card.sending;
    const onProgress = (share) => card.uploading(files, share);
    onProgress(0);
    try {
      const server = { baseUrl: this.client.baseUrl, key: this.key };
      const { integration_id: id } = await send(server, card.sending, { onProgress, signal: card.abort.signal });
      const detail = await this.#detail(id);
      card.sending = card.abort = null;
      if (this.#cards.has(id)) this.#forget(card);
      else this.#place(card, detail);
    } catch (error) {
      if (card.abort?.signal.aborted) return this.#forget(card);
      if (error.status === undefined) throw error;
      const size = files.reduce((sum, file) => sum + file.size, 0);
      card.refused(inWords(error, size), error.retryable);
      this.#tell(`${card.name} was not brought.`);
    }
    return undefined;
  }

  /** The integrations there are, newest first, from a cursor on. */
  async #page(cursor) {
    this.list.setAttribute("aria-busy", "true");
    try {
      const answer = await this.client.request("GET", `v1/integrations?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
      for (const status of answer.integrations) this.#show(status);
      this.#next = answer.next_cursor;
      this.more.hidden = !this.#next;
      this.#count();
    } catch (error) {
      if (error.status === undefined) throw error;
      this.says.textContent =
        error.status === 403
          ? "Your key may not see what was brought (it lacks the scope integrations:read)."
          : `What was brought cannot be shown now: ${error.message}`;
    } finally {
      this.list.removeAttribute("aria-busy");
    }
  }

  /** One of the list: what is new is put in its place. */
  #show(status) {
    const known = this.#cards.get(status.integration_id);
    if (known) {
      if (status.last_activity >= known.status.last_activity) this.#place(known, status);
      return;
    }
    const card = new Card(status.name ?? called(status), this.acts);
    const older = [...this.#cards.values()].find((other) => other.id < status.integration_id);
    this.list.insertBefore(card.element, older?.element ?? null);
    this.#place(card, status);
    if (status.status === "failed") this.#load(card);
  }

  #place(card, status) {
    this.#cards.set(status.integration_id, card);
    if (status.memories) card.detail(status);
    else card.show(status);
    if (!card.final) this.watching.follow(card.id, status.last_activity, card.seq);
  }

  async #ended(id, seq) {
    const card = this.#cards.get(id);
    if (!card) return;
    card.seq = seq;
    await this.#load(card);
    if (!card.final) return;
    card.learned.open = true;
    this.#tell(`${card.name}: ${card.status.status}.`);
  }

  async #load(card) {
    try {
      this.#place(card, await this.#detail(card.id));
    } catch (error) {
      if (error.status === undefined) throw error;
      if (error.status === 404) this.#forget(card);
      else card.complain(`More cannot be shown now: ${error.message}`);
    }
  }

  #detail(id) {
    return this.client.request("GET", place(id));
  }

  #cancel(card) {
    if (card.abort) {
      card.abort.abort();
      this.#waiting = this.#waiting.filter((other) => other !== card);
      return this.#forget(card);
    }
    return this.#act(card, "It was not cancelled", () => this.client.request("POST", `${place(card.id)}/cancel`));
  }

  #retry(card) {
    return this.#act(card, "It was not tried again", () => this.client.request("POST", `${place(card.id)}/retry`));
  }

  async #remove(card) {
    const answer = await this.confirm(`Remove “${card.name}” from this list?`);
    if (!answer) return;
    await this.#act(card, "It was not removed", async () => {
      await this.client.request("DELETE", `${place(card.id)}?memories=${answer.memories}`);
      this.#forget(card);
    });
  }

  /** Does what a button says, then shows what came of it. */
  async #act(card, otherwise, act) {
    card.complain("");
    card.busy(true);
    try {
      await act();
      if (this.#cards.has(card.id)) await this.#load(card);
    } catch (error) {
      if (error.status === undefined) throw error;
      card.complain(`${otherwise}: ${error.status === 403 ? "your key may not do that" : error.message}.`);
    } finally {
      card.busy(false);
    }
  }

  #forget(card) {
    if (!card) return;
    if (card.id) {
      this.#cards.delete(card.id);
      this.watching.leave(card.id);
    }
    if (card.element.contains(document.activeElement)) this.dialog.querySelector(".choose").focus();
    card.element.remove();
    this.#count();
  }

  #count() {
    this.says.textContent = this.list.children.length ? "" : "Nothing was brought yet.";
  }

  #tell(text) {
    this.told.textContent = text;
  }
}

/** Documents in parts that may be sent at once. */
function* together(files) {
  let part = [];
  let size = 0;
  for (const file of files) {
    if (part.length && (part.length === TOGETHER || size + file.size > TOGETHER_BYTES)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(file);
    size += file.size;
  }
  if (part.length) yield part;
}

function named([first, ...others]) {
  const name = first.name.slice(-LONGEST_NAME + 20);
  return others.length ? `${name} and ${others.length} more` : name;
}

function place(id) {
  return `v1/integrations/${encodeURIComponent(id)}`;
}
