/**
 * "Try it" for every operation of `/docs`: a form made from `openapi.json`, the answer shown as text while it comes.
 *
 * @module
 */

import { h } from "./dom.js";

const KEY = "reprise.key"; // where the chat page keeps it too
const LONGEST = 200_000; // characters of an answer shown; a stream may go on for long
const ROOT = new URL("../", import.meta.url);

const key = h("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: "false", size: 40 });

function takeKey() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("key");
  if (given) {
    localStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  key.value = given ?? localStorage.getItem(KEY) ?? "";
}

/** One operation's form. @param {string} path @param {string} method @param {object} operation */
function form(path, method, operation) {
  const inputs = (operation.parameters ?? []).map((parameter) => [parameter, input(parameter)]);
  const content = operation.requestBody?.content["application/json"];
  const parts = operation.requestBody?.content["multipart/form-data"]?.schema.properties;
  const fields = Object.entries(parts ?? {}).map(([name, schema]) => [name, field(name, schema)]);
  const body = content && h("textarea", { rows: 8, spellcheck: "false", "aria-label": "body" });
  if (body) body.value = JSON.stringify(content.example ?? {}, null, 2);
  const send = h("button", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const said = h("p", { class: "said", role: "status" });
  const shown = h("pre", { class: "answer", hidden: true });
  const named = [...inputs.map(([{ name }, element]) => [name, element]), ...fields];
  const rows = named.map(([name, element]) => h("label", {}, h("code", {}, name), element));

  async function submit(event) {
    event.preventDefault();
    const given = inputs.map(([parameter, element]) => [parameter, element.value]).filter(([, value]) => value !== "");
    const headers = operation.security && key.value ? { "X-API-Key": key.value } : {};
    for (const [parameter, value] of given) if (parameter.in === "header") headers[parameter.name] = value;
    const files = fields.some(([, { files: chosen }]) => chosen?.length);
    if (body && !files) headers["Content-Type"] = "application/json";
    const leave = new AbortController();
    stop.onclick = () => leave.abort();
    send.disabled = true;
    stop.hidden = shown.hidden = false;
    shown.textContent = "";
    said.textContent = "Sent …";
    const began = performance.now();
    const time = () => `${Math.round(performance.now() - began)} ms`;
    try {
      const options = { method: method.toUpperCase(), headers, body: files ? data(fields) : body?.value, signal: leave.signal, cache: "no-store" };
      const answer = await fetch(address(path, given), options);
      const status = `${answer.status} ${answer.statusText}`.trim();
      said.textContent = `${status}, first byte after ${time()}`;
      await show(answer, shown);
      said.textContent = `${status}, ended after ${time()}`;
    } catch (error) {
      said.textContent += leave.signal.aborted ? `, stopped after ${time()}` : ` ${error.message}`;
    } finally {
      send.disabled = false;
      stop.hidden = true;
    }
  }

  return h("form", { class: "try", onsubmit: submit }, ...rows, body ?? null, h("p", {}, send, " ", stop), said, shown);
}

function input({ name, in: place, required, schema = {}, description }) {
  const choices = schema.enum;
  const element = choices
    ? h("select", {}, ...["", ...choices].map((choice) => h("option", {}, choice)))
    : h("input", { placeholder: schema.default ?? null, spellcheck: "false", autocomplete: "off" });
  element.required = Boolean(required);
  element.dataset.name = `${place} ${name}`;
  element.title = description ?? "";
  return element;
}

/** An input for one part of a form with files. It is sent where a file is chosen, else the JSON. */
function field(name, schema) {
  if (schema.format !== "binary" && schema.items?.format !== "binary") return input({ name, in: "form", schema });
  return h("input", { type: "file", multiple: schema.type === "array", "data-name": `form ${name}` });
}

function data(fields) {
  const form = new FormData();
  for (const [name, { files, value }] of fields) {
    for (const one of files ?? []) form.append(name, one);
    if (!files && value !== "") form.append(name, value);
  }
  return form;
}

function address(path, given) {
  const found = given.filter(([parameter]) => parameter.in === "path");
  const filled = found.reduce((text, [{ name }, value]) => text.replace(`{${name}}`, encodeURIComponent(value)), path);
  const url = new URL(filled.slice(1), ROOT);
  for (const [parameter, value] of given) if (parameter.in === "query") url.searchParams.set(parameter.name, value);
  return url;
}

async function show(answer, shown) {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let whole = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    whole = (whole + piece.value).slice(-LONGEST);
    shown.textContent = whole;
  }
  if (!answer.headers.get("content-type")?.startsWith("application/json")) return;
  const value = JSON.parse(whole);
  shown.textContent = JSON.stringify(value, null, 2);
  if (value.message_id) fill("path message_id", value.message_id);
  if (value.integration_id) fill("path integration_id", value.integration_id);
}

/** A message just begun is the one to look at next: its id goes where none was written. */
function fill(name, value) {
  for (const element of document.querySelectorAll(`[data-name="${name}"]`)) element.value ||= value;
  filled.set(name, value);
}
const filled = new Map();

async function start() {
  takeKey();
  key.addEventListener("change", () => localStorage.setItem(KEY, key.value));
  document.querySelector("nav").before(h("p", {}, h("label", {}, "API key for trying: ", key)));
  const answer = await fetch(new URL("openapi.json", ROOT));
  for (const [path, methods] of Object.entries((await answer.json()).paths)) {
    for (const [method, operation] of Object.entries(methods.$ref ? {} : methods)) {
      const section = document.getElementById(operation.operationId);
      const open = () => {
        if (!section.open || section.querySelector("form")) return;
        section.append(form(path, method, operation));
        for (const [name, value] of filled) fill(name, value);
      };
      section.addEventListener("toggle", open);
      open();
    }
  }
}

start();
