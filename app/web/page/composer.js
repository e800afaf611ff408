/**
 * Where one writes: grows with its text; Enter sends, Shift+Enter begins a new line; the button sends or stops.
 *
 * @module
 */

const DRAFT = "reprise.draft";

export class Composer {
  #working = false;

  /** @param {HTMLFormElement} form @param {{onSend: (text: string) => void, onStop: () => void}} actions */
  constructor(form, { onSend, onStop }) {
    this.area = form.querySelector("textarea");
    this.sendButton = form.querySelector(".send");
    this.stopButton = form.querySelector(".stop");
    this.onSend = onSend;
    this.area.value = sessionStorage.getItem(DRAFT) ?? "";
    this.area.addEventListener("input", () => this.#changed());
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.stopButton.addEventListener("click", () => {
      onStop();
      this.focus();
    });
    this.#changed();
  }

  /** While an answer is written the button stops it; one may already write what comes next. */
  set working(working) {
    this.#working = working;
    this.sendButton.hidden = working;
    this.stopButton.hidden = !working;
  }

  fill(text) {
    this.area.value = text;
    this.#changed();
    this.focus();
  }

  focus() {
    this.area.focus({ preventScroll: true });
  }

  #send() {
    const text = this.area.value.trim();
    if (!text || this.#working) return;
    this.area.value = "";
    this.#changed();
    this.onSend(text);
  }

  #changed() {
    sessionStorage.setItem(DRAFT, this.area.value);
    this.sendButton.disabled = this.area.value.trim() === "";
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
  }
}
