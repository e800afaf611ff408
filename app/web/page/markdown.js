/**
 * Markdown as it streams in, rendered safely: every node is made by hand, text is only ever text, links are http(s).
 *
 * Blocks that are followed by another block are finished and never touched again; only the last one is rendered anew
 * as text arrives, and of a code block only what is new.
 *
 * @module
 */

import { copyButton, h } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MAX_DEPTH = 6;

/** A growing document in `element`. */
export class Markdown {
  #source = "";
  #settled = 0; // where the first block that may still change begins
  #tail = []; // the rendered blocks from there on

  constructor() {
    this.element = h("div", { class: "markdown" });
  }

  /** @param {string} text what follows what was there */
  append(text) {
    this.#source += text;
    this.#render(false);
  }

  /** Nothing follows any more. */
  finish() {
    this.#render(true);
  }

  #render(last) {
    const lines = this.#source.slice(this.#settled).split("\n");
    let shown = 0;
    let settledBlocks = 0;
    let settledLines = 0;
    for (let start = 0; start < lines.length; ) {
      if (lines[start].trim() === "") {
        start += 1;
        continue;
      }
      const block = readBlock(lines, start);
      this.#show(block, shown);
      shown += 1;
      start = block.end;
      if (settledBlocks === shown - 1 && (last || isFinal(block, lines))) {
        settledBlocks = shown;
        settledLines = block.end;
      }
    }
    for (const extra of this.#tail.splice(shown)) extra.element.remove();
    this.#tail.splice(0, settledBlocks);
    const length = lines.slice(0, settledLines).reduce((sum, line) => sum + line.length + 1, 0);
    this.#settled = Math.min(this.#settled + length, this.#source.length);
  }

  #show(block, index) {
    const there = this.#tail[index];
    if (there && extendCode(there, block)) return;
    const made = renderBlock(block, 0);
    if (there) there.element.replaceWith(made.element);
    else this.element.append(made.element);
    this.#tail[index] = made;
  }
}

/**
 * Whether nothing that may still arrive can change this block: a whole line follows it. A list goes on after blank
 * lines, so that line must say something.
 */
function isFinal(block, lines) {
  const following = lines.slice(block.end, -1);
  return block.kind === "list" ? following.some((line) => line.trim() !== "") : following.length > 0;
}

/** Gives a code block that is on screen its new text; only what is new is touched. */
function extendCode(there, block) {
  if (there.kind !== "code" || block.kind !== "code" || there.language !== block.language) return false;
  const { code } = there;
  if (block.text.startsWith(code.data)) code.appendData(block.text.slice(code.length));
  else code.data = block.text;
  return true;
}

/** The block that starts at line `start`: `{kind, end, …}`, `end` being the line after it. */
function readBlock(lines, start) {
  const line = lines[start];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, start, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2], end: start + 1 };
  if (RULE.test(line)) return { kind: "rule", end: start + 1 };
  if (QUOTE.test(line)) return readQuote(lines, start);
  if (ITEM.test(line)) return readList(lines, start);
  if (line.includes("|") && TABLE_RULE.test(lines[start + 1] ?? "") && lines[start + 1].includes("-")) {
    return readTable(lines, start);
  }
  return readParagraph(lines, start);
}

function readFence(lines, start, [, mark, language]) {
  let end = start + 1;
  const closes = (line) => line.trim().startsWith(mark) && /^[`~]+$/.test(line.trim());
  while (end < lines.length && !closes(lines[end])) end += 1;
  const closed = end < lines.length;
  const content = lines.slice(start + 1, end);
  // The last line of an open fence may be the beginning of its closing marks: it waits for the rest of its line.
  if (!closed && /^\s*[`~]+$/.test(content.at(-1) ?? "")) content.pop();
  return { kind: "code", language, text: content.join("\n"), end: closed ? end + 1 : end };
}

function readQuote(lines, start) {
  let end = start;
  while (end < lines.length && (QUOTE.test(lines[end]) || (lines[end].trim() !== "" && !interrupts(lines[end])))) end += 1;
  return { kind: "quote", lines: lines.slice(start, end).map((line) => line.replace(QUOTE, "")), end };
}

function readList(lines, start) {
  const ordered = /\d/.test(ITEM.exec(lines[start])[2]);
  let end = start + 1;
  for (; end < lines.length; end++) {
    const line = lines[end];
    if (line.trim() === "") {
      const next = lines.slice(end + 1).find((other) => other.trim() !== "");
      if (next === undefined || /^\s{2,}/.test(next)) continue;
      const item = ITEM.exec(next);
      if (!item || /\d/.test(item[2]) !== ordered) break;
    } else if (!ITEM.test(line) && !/^\s{2,}/.test(line) && (lines[end - 1].trim() === "" || interrupts(line))) break;
    else if (RULE.test(line)) break;
  }
  return { kind: "list", ordered, lines: lines.slice(start, end), end };
}

function readTable(lines, start) {
  let end = start + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  return { kind: "table", head: cells(lines[start]), rows: lines.slice(start + 2, end).map(cells), end };
}

function readParagraph(lines, start) {
  let end = start + 1;
  while (end < lines.length && lines[end].trim() !== "" && !interrupts(lines[end])) end += 1;
  return { kind: "paragraph", text: lines.slice(start, end).join("\n"), end };
}

/** Whether a line begins another block in the middle of a paragraph. */
function interrupts(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line) || /^ {0,3}([-*+]|1[.)])\s/.test(line);
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** @returns {{kind: string, element: HTMLElement, language?: string, code?: Text}} */
function renderBlock(block, depth) {
  if (block.kind === "code") return renderCode(block);
  return { kind: block.kind, element: RENDER[block.kind](block, depth) };
}

const RENDER = {
  heading: (block) => h(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.text)),
  rule: () => h("hr"),
  paragraph: (block) => h("p", {}, ...inline(block.text)),
  quote: (block, depth) => h("blockquote", {}, ...nested(block.lines, depth)),
  list: (block, depth) => {
    const start = block.ordered ? Number.parseInt(ITEM.exec(block.lines[0])[2], 10) : 1;
    const attributes = start === 1 ? {} : { start };
    return h(block.ordered ? "ol" : "ul", attributes, ...items(block.lines).map((lines) => item(lines, depth)));
  },
  table: (block) => {
    const row = (tag, texts) => h("tr", {}, ...block.head.map((_, i) => h(tag, {}, ...inline(texts[i] ?? ""))));
    const body = block.rows.map((texts) => row("td", texts));
    return h("div", { class: "table", tabindex: "0" }, h("table", {}, h("thead", {}, row("th", block.head)), h("tbody", {}, ...body)));
  },
};

function renderCode(block) {
  const code = document.createTextNode(block.text);
  const bar = h("div", { class: "code-bar" }, h("span", {}, block.language || "text"), copyButton(() => code.data));
  const element = h("figure", { class: "code" }, bar, h("pre", { tabindex: "0" }, h("code", {}, code)));
  return { kind: "code", language: block.language, element, code };
}

/** The blocks inside a quote or a list item; past some depth, plain text. */
function nested(lines, depth) {
  if (depth >= MAX_DEPTH) return [lines.join("\n")];
  const elements = [];
  for (let start = 0; start < lines.length; ) {
    if (lines[start].trim() === "") {
      start += 1;
      continue;
    }
    const block = readBlock(lines, start);
    elements.push(renderBlock(block, depth + 1).element);
    start = block.end;
  }
  return elements;
}

/** A list's lines cut into its items, each without its marker and indentation. */
function items(lines) {
  const found = [];
  let width = 0;
  for (const line of lines) {
    const marker = ITEM.exec(line);
    if (marker && (found.length === 0 || marker[1].length < width)) {
      width = marker[1].length + marker[2].length + 1;
      found.push([line.slice(marker[0].length)]);
    } else {
      found.at(-1).push(line.replace(new RegExp(`^\\s{0,${width}}`), ""));
    }
  }
  return found;
}

function item(lines, depth) {
  const elements = nested(lines, depth);
  const [first] = elements;
  if (first?.tagName === "P") first.replaceWith(...first.childNodes);
  const children = first?.tagName === "P" ? [...first.childNodes, ...elements.slice(1)] : elements;
  return h("li", {}, ...children);
}
