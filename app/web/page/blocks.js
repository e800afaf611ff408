/**
 * The content blocks of an answer on screen: text, folded thinking, tool calls. Each takes its deltas as they come and
 * paints them once per animation frame.
 *
 * @module
 */

import { h, icon, inNextFrame } from "./dom.js";
import { Markdown } from "./markdown.js";

/** A block by the type of `content_block`; unknown types are shown by name. */
export function makeBlock(start) {
  const Kind = { text: TextBlock, thinking: ThinkingBlock, tool_use: ToolBlock }[start.type] ?? OtherBlock;
  return new Kind(start);
}

class Block {
  #fresh = "";
  #paint = () => this.#flush();

  /** What was written in all. */
  text = "";

  /** @param {string} text */
  add(text) {
    if (!text) return;
    this.text += text;
    this.#fresh += text;
    inNextFrame(this.#paint);
  }

  #flush() {
    const fresh = this.#fresh;
    this.#fresh = "";
    if (fresh) this.paint(fresh);
  }

  end() {
    this.#flush();
  }
}

class TextBlock extends Block {
  kind = "text";

  constructor(start) {
    super();
    this.markdown = new Markdown();
    this.element = this.markdown.element;
    this.add(start.text);
  }

  delta(delta) {
    this.add(delta.text);
  }

  paint(fresh) {
    this.markdown.append(fresh);
  }

  end() {
    super.end();
    this.markdown.finish();
  }
}

class ThinkingBlock extends Block {
  kind = "thinking";

  constructor(start) {
    super();
    this.shown = document.createTextNode("");
    this.label = h("summary", {}, "Its thoughts so far");
    this.element = h("details", { class: "thinking" }, this.label, h("div", {}, this.shown));
    this.add(start.thinking);
  }

  delta(delta) {
    this.add(delta.thinking);
  }

  paint(fresh) {
    this.shown.appendData(fresh);
  }

  end() {
    super.end();
    this.label.textContent = "Its thoughts";
  }
}

class ToolBlock extends Block {
  kind = "tool";

  constructor(start) {
    super();
    this.shown = document.createTextNode("");
    this.state = h("span", { class: "tool-state" }, "preparing…");
    const head = h("summary", {}, icon("tool"), h("span", { class: "tool-name" }, start.name), this.state);
    this.element = h("details", { class: "tool" }, head, h("pre", { tabindex: "0" }, this.shown));
    if (Object.keys(start.input ?? {}).length) this.add(JSON.stringify(start.input));
  }

  delta(delta) {
    this.add(delta.partial_json);
  }

  paint(fresh) {
    this.shown.appendData(fresh);
  }

  end() {
    super.end();
    this.state.textContent = "called";
    try {
      this.shown.data = JSON.stringify(JSON.parse(this.text || "{}"), null, 2);
    } catch {
      this.state.textContent = "cut short";
    }
  }
}

class OtherBlock extends Block {
  kind = "other";

  constructor(start) {
    super();
    this.element = h("p", { class: "muted" }, `[${start.type}]`);
  }

  delta() {}
}
