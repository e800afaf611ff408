/**
 * This tab's end of the hub: the shared one where the browser has SharedWorker, else one of its own.
 *
 * A tab that is hidden leaves and one that is shown again joins anew: nothing is lost, because joining replays.
 *
 * @module
 */

import { Hub } from "./hub.js";

const WORKER_URL = new URL("hub-worker.js", import.meta.url).href;

/** Our policy lets only this one address become a script. */
const policy = globalThis.trustedTypes?.createPolicy("reprise", {
  createScriptURL(url) {
    if (url !== WORKER_URL) throw new TypeError("not ours");
    return url;
  },
});

export class Link {
  #watched = new Set();
  #member = null;
  #shared = typeof SharedWorker === "function";

  /**
   * @param {import("../client.js").Reprise} client
   * @param {string} key
   * @param {(message: object) => void} onMessage what a hub posts, see `Hub.join`
   */
  constructor(client, key, onMessage) {
    this.client = client;
    this.key = key;
    this.onMessage = onMessage;
    this.#join();
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    document.addEventListener("visibilitychange", () => this.#visibility());
  }

  watch(id) {
    this.#watched.add(id);
    this.#member.watch(id);
  }

  unwatch(id) {
    this.#watched.delete(id);
    this.#member.unwatch(id);
  }

  wake() {
    this.#member.wake();
  }

  close() {
    this.#member.leave();
    this.#watched.clear();
  }

  #join() {
    const post = (message) => this.#take(message);
    this.#member = this.#shared ? this.#joinShared(post) : new Hub(this.client).join(post);
  }

  #joinShared(post) {
    const url = policy ? policy.createScriptURL(WORKER_URL) : WORKER_URL;
    const worker = new SharedWorker(url, { type: "module", name: "reprise" });
    worker.addEventListener("error", () => {
      worker.port.close();
      this.#shared = false;
      this.#rejoin();
    });
    worker.port.addEventListener("message", ({ data }) => post(data));
    worker.port.start();
    const tell = (type, id) => worker.port.postMessage({ type, id });
    worker.port.postMessage({ type: "join", baseUrl: this.client.baseUrl, key: this.key });
    return {
      watch: (id) => tell("watch", id),
      unwatch: (id) => tell("unwatch", id),
      wake: () => tell("wake"),
      leave: () => tell("leave"),
    };
  }

  #take(message) {
    if (message.type === "events" && !this.#watched.has(message.id)) return;
    this.onMessage(message);
  }

  /** A tab of its own frees its connections while nobody looks; the shared hub needs no such care. */
  #visibility() {
    if (this.#shared) return;
    if (document.hidden) this.#member.leave();
    else this.#rejoin();
  }

  #rejoin() {
    this.#join();
    for (const id of this.#watched) this.#member.watch(id);
  }
}
