/**
 * The conversation on screen: turns in order, sending, stopping, trying again, deleting.
 *
 * @module
 */

import { Answer } from "./answer.js";
import { isEnd } from "./hub.js";
import { h, randomId } from "./dom.js";
import { recalling } from "./memories.js";
import { dropTexts, hasEnded, keepText } from "./threads.js";

export class Conversation {
  /** @type {Map<string, Answer>} by message id, of every conversation seen */
  #answers = new Map();
  /** @type {Map<string, {threadId: string, text: string, answer: Answer, stop: boolean}>} turns not yet accepted, by turn id */
  #pending = new Map();
  /** @type {Map<string, {element: HTMLElement, answer: Answer}>} what is on screen, by turn id */
  #views = new Map();

  /**
   * @param {object} parts
   * @param {import("../client.js").Reprise} parts.client
   * @param {import("./threads.js").Threads} parts.threads
   * @param {HTMLElement} parts.element where the turns go
   * @param {(text: string) => Promise<{memories: boolean} | null>} parts.confirm
   * @param {(text: string) => void} parts.warn
   * @param {() => void} parts.onChange called when the list or the state of an answer changed
   */
  constructor(parts) {
    Object.assign(this, parts);
    this.threadId = null;
    this.link = null;
  }

  /** Whether an answer in this conversation is being written. */
  get working() {
    return [...this.#views.values()].some((view) => view.answer.working);
  }

  get empty() {
    return this.#views.size === 0;
  }

  /** @param {string | null} threadId null for a new conversation */
  show(threadId) {
    this.threadId = threadId;
    this.#views.clear();
    this.element.replaceChildren();
    this.refresh();
  }

  /** Brings the screen up to what is known. */
  refresh() {
    const turns = this.#turns();
    const ids = new Set(turns.map((turn) => turn.id));
    for (const [id, view] of this.#views) {
      if (ids.has(id)) continue;
      view.element.remove();
      this.#views.delete(id);
    }
    turns.forEach((turn, index) => this.#place(turn, index));
  }

  /** @param {string} id @param {object[]} events */
  take(id, events) {
    this.#answers.get(id)?.take(events);
    if (isEnd(events.at(-1))) this.link.unwatch(id);
  }

  /** @param {string} text */
  send(text) {
    this.threadId ??= `conv_${randomId()}`;
    return this.#submit(this.threadId, `turn_${randomId()}`, text);
  }

  /** Stops what is being written here. */
  stop() {
    for (const [turnId, view] of this.#views) {
      if (!view.answer.working) continue;
      view.answer.stopping();
      const pending = this.#pending.get(turnId);
      if (pending) pending.stop = true;
      else this.#cancel(this.#idOf(view.answer), view.answer);
    }
  }

  /** Deletes this conversation after asking. */
  async remove() {
    const { threadId } = this;
    if (!threadId) return false;
    const wish = await this.confirm("Delete this conversation with all its answers? This cannot be undone.");
    if (!wish) return false;
    const tries = this.threads.thread(threadId)?.turns.flatMap((turn) => turn.tries) ?? [];
    if (!(await this.#removeAll(tries, wish))) return false;
    for (const [turnId, pending] of this.#pending) if (pending.threadId === threadId) this.#pending.delete(turnId);
    dropTexts(threadId);
    return true;
  }

  #turns() {
    const turns = this.threadId ? (this.threads.thread(this.threadId)?.turns ?? []) : [];
    const known = new Set(turns.map((turn) => turn.id));
    for (const [id, pending] of this.#pending) {
      if (pending.threadId === this.threadId && !known.has(id)) turns.push({ id, text: pending.text, whole: true, message: null });
    }
    return turns;
  }

  #place(turn, index) {
    const answer = this.#answerOf(turn);
    const view = this.#views.get(turn.id);
    if (turn.message && !this.#pending.has(turn.id)) answer.know(turn.message);
    if (!view) {
      const element = h("section", { class: "turn" }, bubble(turn), answer.element);
      this.element.insertBefore(element, this.element.children[index] ?? null);
      this.#views.set(turn.id, { element, answer });
    } else if (view.answer !== answer) {
      view.answer.element.replaceWith(answer.element);
      view.answer = answer;
    }
  }

  #answerOf(turn) {
    const pending = this.#pending.get(turn.id);
    const id = turn.message?.message_id;
    if (id && this.#answers.has(id)) return pending?.answer ?? this.#answers.get(id);
    if (pending) {
      if (id) this.#accept(turn.id, id);
      return pending.answer;
    }
    const answer = this.#makeAnswer(this.threadId, turn.id);
    this.#answers.set(id, answer);
    this.#fill(id, answer);
    return answer;
  }

  #makeAnswer(threadId, turnId) {
    const answer = new Answer({
      onRetry: () => this.#retry(threadId, turnId),
      onDelete: () => this.#removeTurn(threadId, turnId),
      onReload: () => this.#fill(this.#idOf(answer), answer),
      onChange: () => this.onChange(),
    });
    return answer;
  }

  /** An unfinished answer is watched from its start; a finished one is fetched whole. */
  async #fill(id, answer) {
    const status = this.threads.get(id);
    if (!hasEnded(status)) return this.link.watch(id);
    answer.ready = this.client.message(id).then(
      (message) => answer.load(message, this.threads.get(id) ?? status),
      (error) => (error.status === 404 ? answer.take([{ type: "not_found" }]) : answer.unreadable(error.message)),
    );
    return answer.ready;
  }

  async #submit(threadId, turnId, text) {
    const answer = this.#makeAnswer(threadId, turnId);
    const pending = { threadId, text, answer, stop: false };
    this.#pending.set(turnId, pending);
    keepText(threadId, turnId, text);
    answer.sending();
    this.refresh();
    this.onChange();
    const metadata = this.threads.metadata(threadId, this.threads.thread(threadId), turnId, text);
    try {
      const messages = [...(await this.#history(threadId, turnId)), { role: "user", content: text }];
      const sent = await this.client.send({ messages, metadata, memory: { recall: recalling() } });
      const times = { created_at: sent.createdAt, updated_at: sent.createdAt };
      this.threads.apply({ message_id: sent.messageId, status: sent.status, ...times, metadata });
      this.#accept(turnId, sent.messageId);
    } catch (error) {
      if (error.status === undefined) throw error;
      answer.unsent(error.message);
    }
    this.refresh();
    this.onChange();
  }

  /** The server has a pending turn; the feed may say so before the reply does. */
  #accept(turnId, id) {
    const pending = this.#pending.get(turnId);
    if (!pending) return;
    this.#pending.delete(turnId);
    this.#answers.set(id, pending.answer);
    this.link.watch(id);
    if (pending.stop) this.#cancel(id, pending.answer);
  }

  /** What was said before a turn, for the model: the user's words, and each answer as far as it got. */
  async #history(threadId, turnId) {
    const messages = [];
    for (const turn of this.threads.thread(threadId)?.turns ?? []) {
      if (turn.id === turnId) break;
      const answer = this.#answers.get(turn.message.message_id);
      await answer?.ready;
      if (turn.text) messages.push({ role: "user", content: turn.text });
      if (answer?.text) messages.push({ role: "assistant", content: answer.text });
    }
    return messages;
  }

  #retry(threadId, turnId) {
    const turn = this.#turns().find((other) => other.id === turnId);
    if (turn) this.#submit(threadId, turnId, turn.text);
  }

  async #cancel(id, answer) {
    try {
      await this.client.cancel(id);
    } catch (error) {
      if (error.status === 409 || error.status === 404) return; // it ended by itself; its last event says how
      answer.notStopped();
      this.warn(`It could not be stopped: ${error.message}`);
    }
  }

  async #removeTurn(threadId, turnId) {
    const wish = await this.confirm("Delete this question and its answer? This cannot be undone.");
    if (!wish) return;
    const turn = this.threads.thread(threadId)?.turns.find((other) => other.id === turnId);
    if (turn && !(await this.#removeAll(turn.tries, wish))) return;
    this.#pending.delete(turnId);
    dropTexts(threadId, turnId);
    this.refresh();
    this.onChange();
  }

  async #removeAll(messages, wish) {
    const outcomes = await Promise.allSettled(messages.map((message) => this.#removeOne(message.message_id, wish)));
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed) this.warn(`Not everything was deleted: ${failed.reason.message}`);
    return !failed;
  }

  async #removeOne(id, wish) {
    await this.client.remove(id, wish).catch((error) => {
      if (error.status !== 404) throw error;
    });
    this.link.unwatch(id);
    this.threads.forget(id);
    this.#answers.delete(id);
  }

  #idOf(answer) {
    for (const [id, other] of this.#answers) if (other === answer) return id;
    return undefined;
  }
}

function bubble(turn) {
  const missing = "These words are kept in the browser that wrote them.";
  const note = turn.whole ? null : h("p", { class: "muted" }, turn.text ? "Only the beginning is known in this browser." : missing);
  const text = turn.text ? h("p", { class: "said" }, turn.text) : null;
  return h("div", { class: "user", "aria-label": "You" }, text, note);
}
