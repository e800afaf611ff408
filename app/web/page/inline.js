/**
 * The inside of a paragraph: code, bold, italic, struck out, links. Everything else is text.
 *
 * @module
 */

import { h } from "./dom.js";

const SPECIAL = /\\[\\`*_{}[\]()#+\-.!~|>]|`+|\*\*|\*|__|_|~~|!?\[|https?:\/\/|<br\s*\/?>|\n/g;
const LINK = /!?\[([^[\]]{0,1000})\]\(\s*<?([^\s()<>]{1,2000}(?:\([^\s()<>]{0,200}\)[^\s()<>]{0,200})?)>?(?:\s+"[^"]{0,500}")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"`\]]{1,2000}/y;
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const LONGEST = 20_000; // past this a paragraph is shown as it came: it is rendered anew on every frame
const MAX_DEPTH = 8;

/** @param {string} text @returns {(Node | string)[]} */
export function inline(text, depth = 0) {
  if (text.length > LONGEST || depth > MAX_DEPTH) return [text];
  const nodes = [];
  const unmatched = new Set(); // delimiters with no close ahead: searched for once, so time stays linear
  let plain = 0;
  SPECIAL.lastIndex = 0;
  const marks = [...text.matchAll(SPECIAL)];
  for (const mark of marks) {
    if (mark.index < plain) continue;
    const made = span(text, mark, unmatched, depth);
    if (!made) continue;
    if (mark.index > plain) nodes.push(text.slice(plain, mark.index));
    nodes.push(made.node);
    plain = made.end;
  }
  if (plain < text.length) nodes.push(text.slice(plain));
  return nodes;
}

/** What begins at a mark: `{node, end}`, or null where the mark is only text. */
function span(text, mark, unmatched, depth) {
  const [token] = mark;
  const at = mark.index;
  if (token[0] === "\\") return { node: token[1], end: at + 2 };
  if (token === "\n" || token.startsWith("<br")) return { node: h("br"), end: at + token.length };
  if (token[0] === "`") return codeSpan(text, token, at, unmatched);
  if (token.endsWith("[")) return link(text, at, depth);
  if (token.startsWith("http")) return bareLink(text, at);
  return emphasis(text, token, at, unmatched, depth);
}

function codeSpan(text, ticks, at, unmatched) {
  if (unmatched.has(ticks)) return null;
  const from = at + ticks.length;
  let end = text.indexOf(ticks, from);
  while (end >= 0 && text[end + ticks.length] === "`") {
    let past = end;
    while (text[past] === "`") past += 1;
    end = text.indexOf(ticks, past);
  }
  if (end < 0) {
    unmatched.add(ticks);
    return null;
  }
  return { node: h("code", {}, text.slice(from, end).replace(/^ (.*[^ ].*) $/s, "$1")), end: end + ticks.length };
}

function emphasis(text, token, at, unmatched, depth) {
  const from = at + token.length;
  const inWord = token[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "");
  if (unmatched.has(token) || inWord || /^\s?$/.test(text[from] ?? "")) return null;
  const end = closing(text, token, from);
  if (end < 0) {
    unmatched.add(token);
    return null;
  }
  return { node: h(TAGS[token], {}, ...inline(text.slice(from, end), depth + 1)), end: end + token.length };
}

function closing(text, token, from) {
  for (let end = text.indexOf(token, from + 1); end >= 0; end = text.indexOf(token, end + 1)) {
    if (/\s/.test(text[end - 1])) continue;
    const next = text[end + token.length] ?? "";
    if (token.length === 1 && next === token) {
      end += 1;
      continue;
    }
    if (token.length === 2 && next === token[0]) end += 1;
    if (token[0] === "_" && /[\p{L}\p{N}]/u.test(next)) continue;
    return end;
  }
  return -1;
}

function link(text, at, depth) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  const address = found && webAddress(found[2]);
  if (!address) return null;
  return { node: anchor(address, inline(found[1] || address, depth + 1)), end: at + found[0].length };
}

function bareLink(text, at) {
  ADDRESS.lastIndex = at;
  const shown = ADDRESS.exec(text)?.[0].replace(/[.,;:!?'*_)]+$/, "");
  const address = shown && webAddress(shown);
  return address ? { node: anchor(address, [shown]), end: at + shown.length } : null;
}

function anchor(address, children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

/** The address if it is one of the web's, else null: no `javascript:`, no `data:`. */
function webAddress(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && (url.protocol === "https:" || url.protocol === "http:") ? url.href : null;
}
