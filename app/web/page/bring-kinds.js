/**
 * What a file is, by its name and a look into it: it decides which route it is sent to.
 *
 * Choices:
 *
 * 1. Of a chat's export only that it is one is told here; the worker, which reads all of it, tells whose.
 * 2. A zip is never unpacked: the names in its directory, at its end, are enough. Two that a platform uses count as
 *    its mark, since single names such as `comments.csv` are everybody's.
 *
 * @module
 */

/** @typedef {{route: "chat" | "files" | "social", platform: string | null}} Kind */

const DOCUMENTS = new Set(["pdf", "docx", "md", "markdown", "html", "htm", "xhtml"]);
const TEXTS = new Set(["txt", "text"]);
const SOCIAL = new Set(["linkedin", "twitter", "reddit"]);
const MARKS = {
  linkedin: /^(?:profile|positions|education|skills|shares|comments|messages)\.csv$/,
  twitter: /^(?:tweets?|account|profile|note-tweets?|direct-messages(?:-group)?)(?:-part\d+)?\.js$/,
  reddit: /^(?:posts|comments|messages|messages_archive|chat_history|post_votes)\.csv$/,
};
const HEAD_BYTES = 4_000;
const LINES = 20; // the first of a chat may be a notice that goes on for some lines
const CHAT_LINE =
  /^[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]*\[?\d{1,4}\s?[./-]\s?\d{1,2}\s?[./-]\s?\d{1,4}\.?[,،]?\s{1,2}[^\d[\]]{0,6}\d{1,2}[:.]\d{2}[^\][]{0,16}(?:\]|\s[-–]\s)/u;

const END_BYTES = 65_557; // the longest end of a zip: 22 bytes and a comment
const MOST_DIRECTORY_BYTES = 8_000_000;
const DIRECTORY_END = 0x06054b50;
const DIRECTORY_END_64 = 0x06064b50;
const LOCATOR_64 = 0x07064b50;
const ENTRY = 0x02014b50;

/** What cannot be sent, told in words. */
export class NotTaken extends Error {}

/**
 * @param {File} file
 * @param {string} chosen what the person says it is: a platform, `documents`, or nothing
 * @returns {Promise<Kind>} rejects with `NotTaken`
 */
export async function kindOf(file, chosen) {
  if (file.size === 0) throw new NotTaken("The file is empty.");
  const head = await read(file, 0, HEAD_BYTES);
  if (chosen === "documents") return { route: "files", platform: null };
  if (chosen) return { route: SOCIAL.has(chosen) ? "social" : "chat", platform: chosen };
  return kindNamed(file.name, head) ?? (await kindWithin(file, head));
}

function kindNamed(name, head) {
  const suffix = /\.([^.]+)$/.exec(name.toLowerCase())?.[1] ?? "";
  if (DOCUMENTS.has(suffix)) return documents;
  if (TEXTS.has(suffix)) return isChat(name, head) ? chats : documents;
  return suffix === "json" ? chats : null;
}

async function kindWithin(file, head) {
  const begins = text(head.subarray(0, 64)).trimStart();
  if (begins.startsWith("PK")) return kindOfZip(await namesInZip(file));
  if (begins.startsWith("%PDF-")) return documents;
  if (/^[[{]\s*["[{]/.test(begins)) return chats;
  throw new NotTaken(
    "This kind of file is not read. Bring documents (PDF, DOCX, Markdown, HTML, text), the export of a chat (zip, JSON or " +
      "text), or the whole archive that LinkedIn, X or Reddit gave you (zip).",
  );
}

const documents = Object.freeze({ route: "files", platform: null });
const chats = Object.freeze({ route: "chat", platform: null });

/** @param {string[]} names @returns {Kind} */
function kindOfZip(names) {
  if (names.some((name) => name.startsWith("word/"))) return documents;
  const last = names.map((name) => name.slice(name.lastIndexOf("/") + 1).toLowerCase());
  const marked = Object.entries(MARKS).map(([platform, mark]) => [last.filter((name) => mark.test(name)).length, platform]);
  const [most, platform] = marked.reduce((best, one) => (one[0] > best[0] ? one : best));
  return most > 1 ? { route: "social", platform } : chats;
}

function isChat(name, head) {
  if (/whatsapp|^_chat\.txt$/i.test(name)) return true;
  return text(head).split("\n", LINES).some((line) => CHAT_LINE.test(line));
}

/**
 * The names in a zip's directory (APPNOTE.TXT, 4.3); none where it has none that can be read: the worker says why.
 *
 * @param {File} file
 */
async function namesInZip(file) {
  const from = Math.max(0, file.size - END_BYTES);
  const end = await read(file, from, file.size);
  const at = endOf(end);
  if (at < 0) return [];
  let [size, start] = [u32(end, at + 12), u32(end, at + 16)];
  if (start === 0xffffffff && at >= 20 && u32(end, at - 20) === LOCATOR_64) {
    const place = u64(end, at - 12);
    const long = await read(file, place, place + 56);
    if (long.length < 56 || u32(long, 0) !== DIRECTORY_END_64) return [];
    [size, start] = [u64(long, 40), u64(long, 48)];
  }
  const directory = await read(file, start, start + Math.min(size, MOST_DIRECTORY_BYTES));
  const names = [];
  const view = viewOf(directory);
  for (let place = 0; place + 46 <= directory.length && view.getUint32(place, true) === ENTRY; ) {
    const length = view.getUint16(place + 28, true);
    names.push(text(directory.subarray(place + 46, place + 46 + length)));
    place += 46 + length + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
  }
  return names;
}

async function read(file, from, to) {
  try {
    return new Uint8Array(await file.slice(from, to).arrayBuffer());
  } catch {
    throw new NotTaken("It cannot be read here. A folder has to be made a zip first; a file may have been moved or changed.");
  }
}

/** Where the end of the directory is told; the comment after it may look the same, but reaches not to the end. */
function endOf(bytes) {
  const view = viewOf(bytes);
  for (let at = bytes.length - 22; at >= 0; at--) {
    if (view.getUint32(at, true) === DIRECTORY_END && at + 22 + view.getUint16(at + 20, true) === bytes.length) return at;
  }
  return -1;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const u32 = (bytes, at) => viewOf(bytes).getUint32(at, true);
const u64 = (bytes, at) => Number(viewOf(bytes).getBigUint64(at, true));

function text(bytes) {
  const wide = bytes[0] === 0xff && bytes[1] === 0xfe;
  return new TextDecoder(wide ? "utf-16le" : "utf-8").decode(bytes);
}
