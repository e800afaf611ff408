/**
 * What is remembered, as a sheet over the page: listed, searched, corrected, forgotten with an undo, downloaded.
 *
 * @module
 */

import { h, icon } from "./dom.js";

const PAGE = 25;
const FOUND = 20; // hits asked for: a person reads no more
const TYPING_MS = 250;
const RECALL = "reprise.recall";
const FROM = { verbatim: "kept word for word" };

/** Whether answers may use what is remembered; on until somebody switches it off in this browser. */
export function recalling() {
  return localStorage.getItem(RECALL) !== "off";
}

export class Memories {
  #total = null; // of the whole list; null while hits are shown
  #asked = 0; // the newest question; answers to earlier ones are dropped
  #typing = 0;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {import("../client.js").Reprise} client
   */
  constructor(dialog, client) {
    this.dialog = dialog;
    this.client = client;
    this.query = dialog.querySelector("input[type=search]");
    this.list = dialog.querySelector(".list");
    this.says = dialog.querySelector(".said-of-list");
    this.more = dialog.querySelector(".more");
    this.query.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.load(), TYPING_MS);
    });
    this.more.addEventListener("click", () => this.#add());
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => this.#escape(event));
    dialog.querySelector(".export").addEventListener("click", () => this.#download());
    const use = dialog.querySelector(".recalling");
    use.checked = recalling();
    use.addEventListener("change", () => localStorage.setItem(RECALL, use.checked ? "on" : "off"));
  }

  /** @param {{id: string, memory: string}} [memory] shown first, among those like it */
  async open(memory) {
    this.query.value = memory?.memory.slice(0, this.query.maxLength) ?? "";
    this.dialog.showModal();
    if (matchMedia("(hover: hover)").matches && !memory) this.query.focus();
    await this.load();
    if (memory) await this.#point(memory.id);
  }

  async #point(id) {
    let row = this.list.querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (!row) {
      const found = await this.#ask(() => this.#one(id));
      row = found?.[0];
      if (!row) return;
    }
    this.list.prepend(row);
    row.classList.add("pointed");
    row.querySelector("button").focus();
  }

  /** The list anew: what the search field asks for, else everything, newest first. */
  async load() {
    clearTimeout(this.#typing);
    const question = this.query.value.trim();
    const rows = await this.#ask(question ? () => this.#search(question) : () => this.#list(1));
    if (!rows) return;
    this.list.replaceChildren(...rows);
    this.dialog.querySelector(".scroll").scrollTop = 0;
  }

  async #add() {
    // pages shift with what is forgotten and what is new: the next one begins with the first row that is not shown
    let page = Math.floor(this.list.querySelectorAll("li:not(.gone)").length / PAGE) + 1;
    let rows = [];
    do {
      const found = await this.#ask(() => this.#list(page));
      if (!found) return;
      rows = found.filter((row) => !this.list.querySelector(`[data-id="${CSS.escape(row.dataset.id)}"]`));
      page += 1;
    } while (!rows.length && !this.more.hidden);
    this.list.append(...rows);
    rows[0]?.querySelector("button")?.focus();
  }

  /** Says how many there are, after one went or came back. */
  #count(change) {
    if (this.#total === null) return;
    this.#total += change;
    this.says.textContent = counted(this.#total);
  }

  /** Rows, or null when they came too late or not at all. */
  async #ask(question) {
    const mine = ++this.#asked;
    this.list.setAttribute("aria-busy", "true");
    try {
      const answer = await question();
      if (mine !== this.#asked) return null;
      this.says.textContent = answer.says;
      this.more.hidden = !answer.more;
      this.#total = answer.total;
      return answer.rows;
    } catch (error) {
      if (error.status === undefined) throw error;
      if (mine === this.#asked) this.#failed(error);
      return null;
    } finally {
      if (mine === this.#asked) this.list.removeAttribute("aria-busy");
    }
  }

  #failed(error) {
    this.list.replaceChildren();
    this.more.hidden = true;
    this.says.textContent =
      error.status === 403
        ? "This key may not read memories (it lacks the scope memories:read)."
        : `This cannot be shown now: ${error.message}`;
  }

  async #list(page) {
    const { data, pagination } = await this.client.request("GET", `v1/memories?page=${page}&page_size=${PAGE}`);
    const total = pagination.total_items;
    return { rows: data.map((memory) => this.#row(memory)), says: counted(total), more: pagination.has_next, total };
  }

  async #search(query) {
    const body = { query, limit: FOUND, include_bio: false };
    const { data } = await this.client.request("POST", "v1/memories/search", { body });
    const by = data.legs.includes("vector") || !data.memories.length ? "" : " (by their words alone)";
    const says = data.memories.length ? `The best matches first${by}` : "Nothing that is remembered matches.";
    return { rows: data.memories.map((hit) => (hit.kind === "turn" ? saidRow(hit) : this.#row(hit))), says, more: false, total: null };
  }

  async #one(id) {
    const { data } = await this.client.request("GET", place({ id }));
    return { rows: [this.#row(data)], says: this.says.textContent, more: !this.more.hidden, total: this.#total };
  }

  #row(memory) {
    const row = h("li", { "data-id": memory.id });
    this.#show(row, memory);
    return row;
  }

  #show(row, memory) {
    const button = (name, symbol, onclick) =>
      h("button", { type: "button", class: "quiet", onclick, "aria-label": `${name}: ${memory.memory}` }, icon(symbol), h("span", {}, name));
    row.className = "";
    row.replaceChildren(
      h("p", { class: "text" }, memory.memory),
      h(
        "div",
        { class: "about" },
        ...memory.categories.map((category) => h("span", { class: "category" }, category)),
        h("span", { class: "when" }, [date(memory.valid_from), FROM[memory.extractor]].filter(Boolean).join(" · ")),
        h(
          "div",
          { class: "acts" },
          button("Correct", "pencil", () => this.#correct(row, memory)),
          button("Forget", "trash", () => this.#forget(row, memory)),
        ),
      ),
    );
  }

  #correct(row, memory) {
    const area = h("textarea", { rows: "2", maxlength: "32768", "aria-label": "Correct this memory" });
    area.value = memory.memory;
    const problem = h("p", { class: "field-problem", role: "alert" });
    const done = (shown) => {
      this.#show(row, shown);
      row.querySelector("button").focus();
    };
    const form = h(
      "form",
      { class: "correcting" },
      area,
      problem,
      h(
        "div",
        { class: "choices" },
        h("button", { type: "button", class: "soft cancel", onclick: () => done(memory) }, "Cancel"),
        h("button", { class: "primary" }, "Save"),
      ),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const content = area.value.trim();
      if (!content || content === memory.memory) return done(memory);
      try {
        const { data } = await this.client.request("PATCH", place(memory), { body: { content } });
        return done({ ...memory, ...data });
      } catch (error) {
        if (error.status === undefined) throw error;
        problem.textContent = `It was not changed: ${error.message}`;
        return undefined;
      }
    });
    row.className = "open";
    row.replaceChildren(form);
    area.focus();
  }

  async #forget(row, memory) {
    try {
      const { data } = await this.client.request("DELETE", place(memory));
      this.#forgotten(row, memory, data.backup_id);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (error.status === 404) row.remove();
      else this.#complain(row, `It was not forgotten: ${error.message}`);
    }
  }

  #forgotten(row, memory, backupId) {
    const undo = h("button", { type: "button", class: "quiet" }, icon("undo"), h("span", {}, "Undo"));
    undo.addEventListener("click", async () => {
      try {
        await this.client.request("POST", "v1/memories/restore", { body: { backup_id: backupId } });
        this.#show(row, memory);
        this.#count(1);
        row.querySelector("button").focus();
      } catch (error) {
        if (error.status === undefined) throw error;
        this.#complain(row, `It could not be brought back: ${error.message}`);
      }
    });
    row.className = "gone";
    row.replaceChildren(h("p", { class: "muted", role: "status" }, "Forgotten."), undo);
    undo.focus();
    this.#count(-1);
  }

  #complain(row, text) {
    row.querySelector(".field-problem")?.remove();
    row.append(h("p", { class: "field-problem", role: "alert" }, text));
  }

  /** Esc leaves a correction first, the sheet after it. */
  #escape(event) {
    const form = event.key === "Escape" && event.target.closest?.(".correcting");
    if (!form) return;
    event.preventDefault();
    form.querySelector(".cancel").click();
  }

  async #download() {
    try {
      const lines = await this.client.request("GET", "v1/memories/export", { as: "blob" });
      const url = URL.createObjectURL(lines);
      h("a", { href: url, download: "memories.ndjson" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      if (error.status === undefined) throw error;
      this.says.textContent = `It cannot be downloaded now: ${error.message}`;
    }
  }
}

/** Something said, found word for word: it belongs to its conversation and is not changed here. */
function saidRow(hit) {
  return h(
    "li",
    { class: "said", "data-id": hit.id },
    h("p", { class: "text" }, hit.memory),
    h("div", { class: "about" }, h("span", { class: "when" }, `Said on ${date(hit.created_at)}`)),
  );
}

function counted(total) {
  return total
    ? `${total.toLocaleString()} ${total === 1 ? "memory" : "memories"}, the newest first`
    : "Nothing is remembered yet. What you tell about yourself in a conversation will stand here.";
}

function place(memory) {
  return `v1/memories/${encodeURIComponent(memory.id)}`;
}

function date(iso) {
  return new Date(iso).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}
