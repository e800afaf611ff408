/**
 * The list of conversations at the side; a drawer on small screens.
 *
 * @module
 */

import { h } from "./dom.js";

const DAY_MS = 86_400_000;

export class Sidebar {
  #items = new Map();

  /** @param {HTMLElement} list @param {(threadId: string) => void} onSelect */
  constructor(list, onSelect) {
    this.list = list;
    this.onSelect = onSelect;
  }

  /** @param {import("./threads.js").Thread[]} threads @param {string | null} current */
  render(threads, current) {
    const wanted = new Set(threads.map((thread) => thread.id));
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      item.element.remove();
      this.#items.delete(id);
    }
    threads.forEach((thread, index) => {
      const item = this.#item(thread.id);
      item.title.textContent = thread.title;
      item.when.textContent = thread.running ? "answering" : when(thread.updatedAt);
      item.element.classList.toggle("running", thread.running);
      if (thread.id === current) item.button.setAttribute("aria-current", "true");
      else item.button.removeAttribute("aria-current");
      // Moving only what is out of place keeps the focus where it is.
      if (this.list.children[index] !== item.element) this.list.insertBefore(item.element, this.list.children[index] ?? null);
    });
  }

  #item(id) {
    let item = this.#items.get(id);
    if (!item) {
      const title = h("span", { class: "title" });
      const time = h("span", { class: "when" });
      const button = h("button", { type: "button", onclick: () => this.onSelect(id) }, title, time);
      item = { element: h("li", {}, button), button, title, when: time };
      this.#items.set(id, item);
    }
    return item;
  }
}

function when(iso) {
  const then = new Date(iso);
  const age = Date.now() - then;
  if (age < DAY_MS && then.getDate() === new Date().getDate()) {
    return then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  }
  return then.toLocaleDateString([], { day: "numeric", month: "short" });
}
