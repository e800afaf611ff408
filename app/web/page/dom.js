/**
 * Making elements without markup in strings: text only ever becomes text.
 *
 * @module
 */

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  copy: "M9 9h10v10H9z M5 15V5h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  trash: "M5 7h14 M10 7V5h4v2 M7 7l1 12h8l1-12",
  retry: "M19 12a7 7 0 1 1-2.05-4.95L19 9 M19 4v5h-5",
  tool: "M14.5 5.5a4.5 4.5 0 0 0-5.8 5.8L4 16v4h4l4.7-4.7a4.5 4.5 0 0 0 5.8-5.8L15.5 12 12 8.5z",
  warning: "M12 4l9 16H3z M12 10v4.5 M12 17.2v.3",
  stop: "M8 8h8v8H8z",
  pencil: "M4 20l1-4L16.5 4.5l3 3L8 19z M14 7l3 3",
  undo: "M9 7L4 12l5 5 M4 12h10a6 6 0 0 1 6 6v1",
  bookmark: "M6 4h12v16l-6-4-6 4z",
};

/**
 * An element: `h("button", { class: "quiet", onclick }, "Copy")`. Properties that are functions become listeners,
 * `true` an empty attribute, `false`, `null` and `undefined` none; strings among the children become text.
 *
 * @param {string} tag @param {object} [attributes] @param {...(Node | string | null | false)} children
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/** A line icon of the size of the text around it. @param {keyof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A small button that copies `text()` and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const caption = h("span", {}, label);
  const button = h("button", { type: "button", class: "quiet copy", "aria-label": label }, icon("copy"), caption);
  button.addEventListener("click", async () => {
    const done = await copy(text());
    button.replaceChildren(icon(done ? "check" : "warning"), h("span", {}, done ? "Copied" : "Not allowed"));
    setTimeout(() => button.replaceChildren(icon("copy"), caption), 1600);
  });
  return button;
}

/** The clipboard API exists on secure pages only; the old way works on the others. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "off-screen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const dirty = new Set();
let frame = 0;

/** Calls `paint` once in the next animation frame, however often it is asked for. @param {() => void} paint */
export function inNextFrame(paint) {
  dirty.add(paint);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const now = [...dirty];
    dirty.clear();
    for (const call of now) call();
  });
}

/** 128 random bits in hexadecimal, also where the page is not secure. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
