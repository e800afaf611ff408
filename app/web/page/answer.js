/**
 * One answer on screen: its blocks, and in plain words what state it is in.
 *
 * It is filled either from events (`take`, from the start and in order) or at once from a finished message (`load`).
 *
 * @module
 */

import { makeBlock } from "./blocks.js";
import { copyButton, h, icon } from "./dom.js";

const WORKING = new Set(["sending", "queued", "waiting", "thinking", "writing", "calling", "stopping"]);

const SAYS = {
  sending: "Sending…",
  queued: "Queued: it starts as soon as a slot is free.",
  waiting: "Waiting for the first word…",
  thinking: "Thinking…",
  writing: "Writing…",
  calling: "Preparing a tool call…",
  stopping: "Stopping…",
  loading: "Loading…",
};

const CANCELLED = { unobserved: "Stopped, because nobody was watching.", deleted: "This answer was deleted." };

const STOPPED_SHORT = {
  max_tokens: "The answer reached its length limit and ends here.",
  refusal: "The model declined to go on.",
};

export class Answer {
  #blocks = new Map();
  #attempt = 1;
  #stopReason = null;
  #stoppedHere = false;
  #cancelReason = "";
  #model = "";

  /**
   * @param {object} actions what the buttons do
   * @param {() => void} actions.onRetry
   * @param {() => void} actions.onDelete
   * @param {() => void} actions.onReload
   * @param {() => void} actions.onChange called when the phase changes
   */
  constructor(actions) {
    this.actions = actions;
    this.phase = "loading";
    this.error = "";
    this.body = h("div", { class: "blocks", "aria-live": "polite" });
    this.recalled = h("details", { class: "recalled", hidden: true });
    this.notice = h("p", { class: "notice", hidden: true });
    this.state = h("div", { class: "state", role: "status" });
    this.foot = h("div", { class: "foot" });
    this.element = h("article", { class: "answer", "aria-label": "Answer" }, this.notice, this.recalled, this.body, this.state, this.foot);
    this.#say("loading");
  }

  /** Whether more may come. */
  get working() {
    return WORKING.has(this.phase);
  }

  /** What was answered, as text. */
  get text() {
    const blocks = [...this.#blocks.values()].filter((block) => block.kind === "text");
    return blocks.map((block) => block.text).join("\n\n");
  }

  /** @param {object[]} events as the server sent them */
  take(events) {
    for (const event of events) this.#takeOne(event);
  }

  /** A finished message from `GET …/{id}` and its status object. */
  load(message, status) {
    this.#clear();
    for (const start of message.content ?? []) this.#open(this.#blocks.size, start).end();
    this.#stopReason = message.stop_reason;
    this.#model = message.model ?? "";
    this.error = status.error_message ?? "";
    this.#say({ completed: "done", cancelled: "stopped", error: "failed" }[status.status] ?? "waiting");
  }

  /** What the list or the feed says of it: figures for its foot, and the queue before the first event. */
  know(status) {
    this.status = status;
    const early = this.phase === "sending" || this.phase === "queued" || this.phase === "loading";
    if (early && status.status === "pending") this.#say("queued");
    else if (early && status.status === "processing") this.#say("waiting");
    else if (!this.working) this.#paintFoot();
  }

  sending() {
    this.#say("sending");
  }

  /** It never reached the server. */
  unsent(message) {
    this.error = message;
    this.#say("unsent");
  }

  stopping() {
    this.#stoppedHere = true;
    if (this.working) this.#say("stopping");
  }

  /** Stopping failed: it goes on as it was. */
  notStopped() {
    this.#stoppedHere = false;
    if (this.phase === "stopping") this.#say(this.#blocks.size ? "writing" : "waiting");
  }

  unreadable(message) {
    this.error = message;
    this.#say("unreadable");
  }

  #takeOne(event) {
    switch (event.type) {
      case "message_start":
        this.#clear();
        this.#model = event.message?.model ?? "";
        return this.#say("waiting");
      case "memory_recall":
        return this.#recall(event.memories ?? [], event.error);
      case "content_block_start":
        this.#open(event.index, event.content_block);
        return this.#say({ thinking: "thinking", tool_use: "calling" }[event.content_block.type] ?? "writing");
      case "content_block_delta":
        return this.#blocks.get(event.index)?.delta(event.delta);
      case "content_block_stop":
        return this.#blocks.get(event.index)?.end();
      case "message_delta":
        this.#stopReason = event.delta?.stop_reason;
        return undefined;
      case "message_restart":
        this.#clear();
        this.recalled.hidden = true;
        this.#attempt = event.attempt;
        this.#note("The worker writing this answer was lost, and its unfinished text dropped. Another one began anew.");
        return this.#say("waiting");
      case "gap":
        this.#clear();
        this.recalled.hidden = true;
        return this.#note("Part of this answer's history was lost. What is left was loaded again.");
      case "message_stop":
        return this.#finish("done");
      case "message_cancelled":
        this.#cancelReason = event.reason;
        return this.#finish("stopped");
      case "error":
        this.error = event.error?.detail?.explanation || event.error?.message || "";
        return this.#finish("failed");
      case "not_found":
        return this.#finish("gone");
      default:
        return undefined;
    }
  }

  #open(index, start) {
    const block = makeBlock(start);
    this.#blocks.set(index, block);
    this.body.append(block.element);
    return block;
  }

  #clear() {
    this.#blocks.clear();
    this.body.replaceChildren();
    this.#stopReason = null;
  }

  /** What was put before the model, told before its first word. */
  #recall(memories, error) {
    const count = memories.length === 1 ? "Recalled 1 memory" : `Recalled ${memories.length} memories`;
    const items = memories.map(({ memory }) => h("li", {}, h("p", {}, memory)));
    this.recalled.hidden = !(items.length || error);
    this.recalled.replaceChildren(
      h("summary", {}, error ? "What is remembered could not be looked up" : count),
      h("ul", {}, ...(error ? [h("li", {}, error.message ?? String(error))] : items)),
    );
  }

  #note(text) {
    this.notice.textContent = text;
    this.notice.hidden = false;
  }

  #finish(phase) {
    for (const block of this.#blocks.values()) block.end();
    this.#say(phase);
  }

  #say(phase) {
    const stopping = this.phase === "stopping" && WORKING.has(phase) && phase !== "stopping";
    if (stopping || (phase === this.phase && this.state.hasChildNodes())) return;
    this.phase = phase;
    this.element.dataset.phase = phase;
    this.body.setAttribute("aria-busy", String(this.working));
    this.state.replaceChildren(...this.#words());
    this.#paintFoot();
    this.actions.onChange?.();
  }

  #words() {
    if (SAYS[this.phase]) return [h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}, SAYS[this.phase])];
    const kept = this.#blocks.size ? " What had been written is kept." : "";
    switch (this.phase) {
      case "stopped":
        return [icon("stop"), h("span", {}, this.#whyStopped() + kept)];
      case "failed":
        return this.#problem("The answer could not be finished.", this.error + kept);
      case "unsent":
        return this.#problem("This was not sent.", this.error);
      case "unreadable":
        return this.#problem("The answer could not be loaded.", this.error);
      case "gone":
        return [h("span", {}, "This answer is no longer kept: it was deleted or its time ran out.")];
      default:
        return STOPPED_SHORT[this.#stopReason] ? [h("span", {}, STOPPED_SHORT[this.#stopReason])] : [];
    }
  }

  #whyStopped() {
    return CANCELLED[this.#cancelReason] ?? (this.#stoppedHere ? "Stopped by you." : "Stopped.");
  }

  #problem(title, detail) {
    const again = this.phase === "unreadable" ? this.actions.onReload : this.actions.onRetry;
    const button = h("button", { type: "button", class: "soft", onclick: again }, icon("retry"), "Try again");
    return [h("div", { class: "problem" }, icon("warning"), h("div", {}, h("strong", {}, title), h("p", {}, detail)), button)];
  }

  #paintFoot() {
    if (this.working || this.phase === "loading" || this.phase === "unreadable") return this.foot.replaceChildren();
    const parts = [];
    if (this.text) parts.push(copyButton(() => this.text));
    if (this.phase === "stopped" || this.phase === "done") {
      parts.push(h("button", { type: "button", class: "quiet", onclick: this.actions.onRetry }, icon("retry"), h("span", {}, "Try again")));
    }
    parts.push(
      h("button", { type: "button", class: "quiet", onclick: this.actions.onDelete }, icon("trash"), h("span", {}, "Delete")),
      h("span", { class: "figures" }, this.#figures()),
    );
    return this.foot.replaceChildren(...parts);
  }

  #figures() {
    const known = this.status?.metadata ?? {};
    const seconds = known.completion_time_ms ? `${(known.completion_time_ms / 1000).toFixed(1)} s` : "";
    const tokens = known.output_tokens ? `${known.output_tokens} tokens` : "";
    const attempt = this.#attempt > 1 ? `attempt ${this.#attempt}` : "";
    return [known.model || this.#model, tokens, seconds, attempt].filter(Boolean).join(" · ");
  }
}
