/**
 * Sending files with their progress, which `fetch` does not tell.
 *
 * @module
 */

import { RepriseError } from "../client.js";

const LARGE_BYTES = 20_000_000; // a server may break off an upload that is too large before it answers

/**
 * @typedef {object} Sending
 * @property {"chat" | "files" | "social"} route
 * @property {File[]} files
 * @property {Record<string, string>} fields
 * @property {string} once an idempotency key: sent again after a lost answer, it makes nothing twice
 */

/**
 * @param {{baseUrl: string, key: string}} server
 * @param {Sending} sending
 * @param {{onProgress: (share: number) => void, signal: AbortSignal}} options `share` from 0 to 1
 * @returns {Promise<object>} what the server answers; rejects with `RepriseError`, or the signal's reason
 */
export async function send(server, sending, options) {
  try {
    return await post(server, sending, options);
  } catch (error) {
    // the server may know fewer zones than the browser; the times of a chat are taken as UTC then
    const { zone, ...fields } = sending.fields;
    const named = error.details?.errors?.map((one) => one.field) ?? [];
    if (!zone || named.length !== 1 || named[0] !== "zone") throw error;
    return post(server, { ...sending, fields }, options);
  }
}

function post({ baseUrl, key }, { route, files, fields, once }, { onProgress, signal }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const file of files) form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    const abort = () => request.abort();
    const end = (settle, value) => {
      signal.removeEventListener("abort", abort);
      settle(value);
    };
    request.open("POST", `${baseUrl}v1/integrations/${route}`);
    request.setRequestHeader("X-API-Key", key);
    request.setRequestHeader("Idempotency-Key", once);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status === 202) end(resolve, answerOf(request));
      else end(reject, refusal(request));
    });
    request.addEventListener("error", () => end(reject, new RepriseError(0, "UNREACHABLE", "The line was cut.")));
    request.addEventListener("abort", () => end(reject, signal.reason));
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) end(reject, signal.reason);
    else request.send(form);
  });
}

function answerOf(request) {
  try {
    return JSON.parse(request.responseText);
  } catch {
    return {};
  }
}

function refusal(request) {
  const { code = `HTTP_${request.status}`, message = request.statusText, details } = answerOf(request).error ?? {};
  return new RepriseError(request.status, code, message, details, Number(request.getResponseHeader("Retry-After")) || 0);
}

/** What a person is told of a refusal. @param {RepriseError} error @param {number} size of what was sent, in bytes */
export function inWords(error, size) {
  switch (error.status) {
    case 0:
      return size > LARGE_BYTES
        ? `The upload was cut off: the server cannot be reached, or ${bytes(size)} is more than it takes.`
        : "The server cannot be reached. Nothing was brought.";
    case 401:
      return "Your key is no longer accepted. Sign out, then sign in with one that is.";
    case 403:
      return "Your key may not bring anything (it lacks the scope integrations:write).";
    case 413: {
      const most = error.details?.max_bytes;
      return `${bytes(size)} is too large${most ? `: this server takes ${bytes(most)} at once` : ""}.`;
    }
    case 415:
      return "The server does not take this kind of file.";
    case 422:
      return (error.details?.errors ?? []).map((one) => `${one.field}: ${one.reason}`).join("; ") || error.message;
    case 429:
      return `Too much at once. Try again in ${error.retryAfter || "a few"} seconds.`;
    default:
      return `It was not taken: ${error.message}`;
  }
}

/** @param {number} size @returns {string} for example `3.2 MB` */
export function bytes(size) {
  if (size < 1_000) return `${size} bytes`;
  const [unit, name] = size < 999_500 ? [1_000, "kB"] : size < 999_500_000 ? [1_000_000, "MB"] : [1_000_000_000, "GB"];
  return `${(size / unit).toLocaleString([], { maximumFractionDigits: size / unit < 10 ? 1 : 0 })} ${name}`;
}
