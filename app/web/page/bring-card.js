/**
 * One thing being brought: on its way up, under work, ended; what went wrong with it and what was learned.
 *
 * @module
 */

import { bytes } from "./bring-upload.js";
import { h, icon, inNextFrame } from "./dom.js";

const PLATFORMS = {
  chatgpt: "ChatGPT",
  claude: "Claude",
  telegram: "Telegram",
  whatsapp: "WhatsApp",
  slack: "Slack",
  discord: "Discord",
  linkedin: "LinkedIn",
  twitter: "X",
  reddit: "Reddit",
  pdf: "PDF",
  docx: "Word",
  txt: "Text",
  md: "Markdown",
  html: "HTML",
  files: "Documents",
  auto: "Chat export",
  api: "Records of an API",
};
const STEPS = {
  social: {
    authentication: "Checking access",
    discovery: "Seeing what there is",
    extraction: "Reading",
    processing: "Drawing memories",
  },
  file: {
    upload: "Taking the files",
    parsing: "Reading",
    chunking: "Cutting into passages",
    memory_creation: "Remembering the passages",
  },
  chat: {
    validation: "Telling whose export it is",
    conversation_detection: "Finding conversations",
    content_extraction: "Keeping what was said",
    memory_creation: "Drawing memories",
  },
  api: { validation: "Checking", fetching: "Fetching", parsing: "Reading", memory_creation: "Drawing memories" },
};
const ITEMS = { social: ["entry", "entries"], file: ["part", "parts"], chat: ["conversation", "conversations"], api: ["record", "records"] };
const BETWEEN_PEOPLE = new Set(["telegram", "whatsapp", "slack", "discord"]);
const UNNAMED = "Nothing new was learned. Where others speak too, write your name in the chat above and bring it again.";
const MOST_ERRORS = 100; // shown; nobody reads more here, and the API has them all
const FINAL = new Set(["completed", "failed", "cancelled"]);
const LABELS = { pending: "Waiting", processing: "Under way", completed: "Done", failed: "Failed", cancelled: "Cancelled" };

export class Card {
  #errors = new Map();
  #cut = false;

  /**
   * @param {string} name
   * @param {object} on what its buttons do: `cancel`, `retry`, `remove`, `dismiss`, `again`, `details`, each called with
   *   the card; `jump` with a memory
   */
  constructor(name, on) {
    this.on = on;
    /** Whether all there is to know of it is here. */
    this.loaded = false;
    this.id = null;
    this.status = null;
    /** The newest event seen. */
    this.seq = 0;
    const part = (tag, className, attributes = {}) => h(tag, { class: className, ...attributes });
    this.title = part("h3", "name");
    this.badge = part("span", "badge");
    this.about = part("p", "muted about-it");
    this.bar = part("progress", "bar", { max: "100" });
    this.step = part("p", "step");
    this.figures = part("p", "muted figures-of-it");
    this.problem = part("p", "field-problem", { role: "alert" });
    this.acts = part("div", "acts");
    this.errorsTitle = h("summary");
    this.errorList = part("ul", "errors");
    this.errors = h("details", { hidden: true, ontoggle: () => this.errors.open && on.details(this) }, this.errorsTitle, this.errorList);
    this.learnedTitle = h("summary");
    this.learnedList = part("ul", "learned");
    this.learned = h("details", { hidden: true, ontoggle: () => this.learned.open && on.details(this) }, this.learnedTitle, this.learnedList);
    const head = h("div", { class: "head" }, this.title, this.badge);
    this.element = h("li", {}, head, this.about, this.bar, this.step, this.figures, this.problem, this.errors, this.learned, this.acts);
    this.name = name;
  }

  get name() {
    return this.title.textContent;
  }

  set name(name) {
    this.title.textContent = name;
    this.bar.setAttribute("aria-label", `How far ${name} is`);
  }

  get final() {
    return this.status !== null && FINAL.has(this.status.status);
  }

  /** Files on their way. @param {number | null} share sent so far, 0 to 1; null before it begins */
  uploading(files, share) {
    const size = files.reduce((sum, file) => sum + file.size, 0);
    const names = files.length > 1 ? `${files.map((file) => file.name).join(", ")} · ` : "";
    this.#state("uploading", share === null ? "Waiting" : "Uploading");
    this.about.textContent = names + bytes(size);
    this.problem.textContent = "";
    this.step.textContent = share === 1 ? "Sent; the server is storing it" : share === null ? "Waits for what is sent before it" : "Uploading";
    this.figures.textContent = share === null ? "" : `${percent(share * 100)} of ${bytes(size)}`;
    this.#progress(share === null ? 0 : share * 100);
    this.#buttons(["Cancel", "stop", "cancel"]);
  }

  /** It was not sent. @param {string} why @param {boolean} again whether sending it again may help */
  refused(why, again) {
    this.#state("refused", "Not brought");
    this.step.textContent = this.figures.textContent = "";
    this.bar.hidden = true;
    this.problem.textContent = why;
    this.#buttons(again && ["Send again", "retry", "again"], ["Dismiss", "trash", "dismiss"]);
  }

  /** The server has it. @param {object} status its status body @param {object} [error] an item that failed just now */
  show(status, error = null) {
    this.id = status.integration_id;
    this.status = status;
    this.element.dataset.id = this.id;
    if (error) this.#errors.set(error.error_id, error);
    inNextFrame(this.#paint);
  }

  /** Everything there is to know. @param {object} detail the body of `GET /v1/integrations/{id}` */
  detail(detail) {
    this.loaded = true;
    this.#errors = new Map(detail.errors.map((error) => [error.error_id, error]));
    this.errorList.replaceChildren();
    this.learnedList.replaceChildren(...detail.memories.map((memory) => this.#memory(memory)));
    this.show(detail);
  }

  /** Says that the server is out of reach, or within it again. */
  cut(cut) {
    if (this.#cut === cut) return;
    this.#cut = cut;
    inNextFrame(this.#paint);
  }

  /** An act of its buttons failed. */
  complain(text) {
    this.problem.textContent = text;
  }

  busy(busy) {
    for (const button of this.acts.children) button.disabled = busy;
  }

  #paint = () => {
    const { type, status, progress, stats, created_at: began, completed_at: ended } = this.status;
    this.#state(status, LABELS[status] ?? status);
    this.about.textContent = `${called(this.status)} · ${when(ended ?? began)}`;
    this.#progress(progress.percentage);
    this.bar.hidden = this.final;
    this.step.textContent = this.final ? this.#outcome() : this.#stepOf(type, progress, status);
    this.figures.textContent = figures(type, stats, this.final ? null : this.status);
    this.#showErrors(stats.errors_count);
    this.learned.hidden = !this.final || !stats.memories_created;
    this.learnedTitle.textContent = learnedOf(stats.memories_created, this.learnedList.children.length);
    const retry = status === "failed" || (status === "completed" && stats.errors_count > 0);
    this.#buttons(
      !this.final && ["Cancel", "stop", "cancel"],
      retry && ["Try again", "retry", "retry"],
      this.final && ["Remove", "trash", "remove"],
    );
  };

  #outcome() {
    if (this.status.status === "cancelled") return "What had been brought is kept.";
    if (this.status.status === "completed") return this.#unlearned() ? UNNAMED : "";
    return [...this.#errors.values()].find((error) => error.item_id === null)?.message ?? "";
  }

  #unlearned() {
    return BETWEEN_PEOPLE.has(this.status.platform) && !this.status.stats.memories_created;
  }

  #stepOf(type, { current_step: step, total_steps: total }, status) {
    if (this.#cut) return "The server cannot be reached now. It goes on meanwhile.";
    if (status === "pending") return "Waits for its turn";
    const names = STEPS[type] ?? {};
    return `${names[step] ?? step} (step ${Object.keys(names).indexOf(step) + 1} of ${total})`;
  }

  #showErrors(count) {
    this.errors.hidden = count === 0;
    this.errorsTitle.textContent = count === 1 ? "1 problem" : `${count.toLocaleString()} problems`;
    const shown = [...this.#errors.values()].slice(0, MOST_ERRORS);
    for (const error of shown.slice(this.errorList.children.length)) {
      const about = error.item_id ? h("span", { class: "item" }, error.item_id) : null;
      this.errorList.append(h("li", { title: error.code }, about, error.message));
    }
    if (this.#errors.size > MOST_ERRORS) this.errorsTitle.textContent += ` (the first ${MOST_ERRORS} are listed)`;
  }

  #memory(memory) {
    const open = () => this.on.jump(memory);
    const title = "Show it among what is remembered";
    return h("li", {}, h("button", { type: "button", class: "memory", onclick: open, title }, h("span", {}, memory.memory)));
  }

  #progress(percentage) {
    this.bar.hidden = false;
    this.bar.value = percentage;
    this.bar.textContent = percent(percentage);
  }

  #state(state, label) {
    this.element.dataset.state = state;
    this.badge.textContent = label;
  }

  /** Leaves the buttons that stay where they are: one of them may have the focus. */
  #buttons(...wanted) {
    const shown = wanted.filter(Boolean);
    const names = shown.map(([name]) => name).join();
    if (this.acts.dataset.names === names) return;
    const focused = this.acts.contains(document.activeElement);
    this.acts.dataset.names = names;
    this.acts.replaceChildren(
      ...shown.map(([name, symbol, act]) =>
        h("button", { type: "button", class: "quiet", "aria-label": `${name}: ${this.name}`, onclick: () => this.on[act](this) }, icon(symbol), h("span", {}, name)),
      ),
    );
    if (focused) this.acts.querySelector("button")?.focus();
  }
}

/** How far it is, in numbers. @param {object | null} going its status while it goes on */
function figures(type, stats, going) {
  const [one, many] = ITEMS[type] ?? ["item", "items"];
  const memories = stats.memories_created;
  return [
    going && percent(going.progress.percentage),
    stats.items_total > 0 && `${stats.items_processed.toLocaleString()} of ${stats.items_total.toLocaleString()} ${stats.items_total === 1 ? one : many}`,
    (memories > 0 || !going) && (memories ? `${memories.toLocaleString()} ${memories === 1 ? "memory" : "memories"}` : "no new memories"),
    going && left(going),
  ]
    .filter(Boolean)
    .join(" · ");
}

/** The time left by the server's clock, which may not be ours. */
function left({ progress, last_activity: now }) {
  if (!progress.estimated_completion) return "";
  const seconds = (new Date(progress.estimated_completion) - new Date(now)) / 1000;
  if (seconds < 10) return "less than 10 seconds left";
  if (seconds < 90) return `about ${Math.ceil(seconds / 10) * 10} seconds left`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} minutes left` : `about ${Math.round(minutes / 60)} hours left`;
}

/** What an integration is by its source. @param {object} status */
export function called({ platform }) {
  return PLATFORMS[platform] ?? platform;
}

function learnedOf(made, shown) {
  const counted = made === 1 ? "1 memory" : `${made.toLocaleString()} memories`;
  return shown > 0 && shown < made ? `What was learned: ${counted}, the newest ${shown} here` : `What was learned: ${counted}`;
}

function percent(value) {
  return `${Math.floor(value)} %`;
}

function when(iso) {
  if (!iso) return "";
  const then = new Date(iso);
  const today = then.toDateString() === new Date().toDateString();
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? `at ${time}` : `on ${then.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}`;
}
