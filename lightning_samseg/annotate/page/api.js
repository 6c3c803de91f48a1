/**
 * The server's calls, under `api/` beside this page. Relative, so that a proxy's prefix does not matter.
 *
 * @typedef {{size: [number, number], counts: number[]}} Runs  row-major run lengths, background first (rle.js)
 * @typedef {{box: [number, number, number, number]} | {point: [number, number]}} Prompt
 *   A box is half open in image pixels, x0, y0, x1, y1; a point is a pixel's column and row.
 * @typedef {{strokes: number, undos: number, prompts: number, seconds: number}} Effort
 *   Of this image: what the expert did, and active seconds (pauses of more than 30 s do not count).
 * @typedef {{id: string, name: string, state: "new"|"draft"|"accepted"|"skipped"|"unreadable", reason?: string,
 *   volume?: string, slice?: number, slices?: number, holder?: string}} Listed
 *   An image of the list. A volume is listed slice by slice; its slices share `volume`.
 *
 * GET workspace -> {workspace: string (an id that no other workspace has), name, class, prompt: "box"|"point", author?,
 *   images: Listed[] in the order in which they are asked for, numbers, learned, pending}
 * GET images/ID/pixels -> raw values, little endian, row-major; X-Shape: "H,W" or "H,W,3"; X-Dtype: "uint8", "uint16",
 *   "int16", "int32", "float32"; X-Window: "LOW,HIGH", the window to start with
 * POST images/ID/open {tab, take_over?: true} -> {revision, prompts, draft: Runs|null, accepted: Runs|null}
 *   409 {error: "lease", holder} if another tab has it
 * POST images/ID/ask {tab, prompts} -> {answers: {sam: Runs, fused: Runs|null}[], alpha, learned, pending}
 *   in the order of the prompts; fused is null where it is hidden (--blind); 422 {message} says why a prompt is refused
 * PUT images/ID/draft {tab, revision, prompts, mask: Runs, effort} -> 204; the revision is now one higher
 *   409 {error: "revision", revision, prompts, mask} if the revision sent is not the newest; 409 {error: "lease", holder}
 * POST images/ID/accept, as draft -> {position, next: id|null, numbers}; 507 {message} if the disk is full
 * POST images/ID/skip {tab, reason} -> {next}; POST images/ID/reopen {tab} -> as open
 * GET events?tab=TAB -> server-sent events: learned {learned, pending}, numbers {...}, image Listed, lease {id, tab},
 *   message {message}; a comment every 15 s. The stream is the tab's sign of life.
 *
 * Every refusal is {message}, a sentence for the expert, beside what is named above.
 */

const TOKEN = "samseg-token";
const SILENCE = 40_000; // ms without a heartbeat after which the stream is opened anew

/** The token of the address's fragment, which is stripped, or the one this tab has kept. */
export function takeToken(location = window.location, storage = window.sessionStorage) {
  const found = /(?:^#|&)t=([^&]+)/.exec(location.hash);
  if (found) {
    storage.setItem(TOKEN, decodeURIComponent(found[1]));
    window.history.replaceState(null, "", location.pathname + location.search);
  }
  return storage.getItem(TOKEN);
}

/** What the server refused, with its answer; status 0: the server was not reached. */
export class Refusal extends Error {
  /** @param {number} status @param {any} answer */
  constructor(status, answer) {
    super(answer?.message ?? answer?.error ?? (status ? `The server answered ${status}.` : "The server does not answer."));
    this.status = status;
    this.answer = answer ?? {};
  }

  /** Nobody was there, or not able to work: the same call may succeed later. */
  get unreachable() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export class Api {
  /** @param {string} token @param {string} tab */
  constructor(token, tab) {
    this.token = token;
    this.tab = tab;
  }

  /** @param {string} path @param {RequestInit} [options] */
  async fetch(path, options = {}) {
    let response;
    try {
      response = await fetch(`api/${path}`, {
        ...options,
        headers: { Authorization: `Bearer ${this.token}`, ...options.headers },
        credentials: "omit",
        cache: "no-store",
      });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new Refusal(0, null);
    }
    if (response.ok) return response;
    throw new Refusal(response.status, await response.json().catch(() => null));
  }

  /** @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal] */
  async json(method, path, body, signal) {
    const response = await this.fetch(path, {
      method,
      signal,
      ...(body && { body: JSON.stringify({ tab: this.tab, ...body }), headers: { "Content-Type": "application/json" } }),
    });
    return response.status === 204 ? null : response.json();
  }

  workspace() {
    return this.json("GET", "workspace");
  }

  /** Raw values of an image: {height, width, channels, dtype, window, buffer}. */
  async pixels(id, signal) {
    const response = await this.fetch(`images/${encodeURIComponent(id)}/pixels`, { signal });
    const [height, width, channels = 1] = response.headers.get("X-Shape").split(",").map(Number);
    const window = response.headers.get("X-Window").split(",").map(Number);
    const dtype = response.headers.get("X-Dtype");
    return { height, width, channels, dtype, window, buffer: await response.arrayBuffer() };
  }

  open(id, take_over = false) {
    return this.json("POST", `images/${encodeURIComponent(id)}/open`, take_over ? { take_over } : {});
  }

  ask(id, prompts, signal) {
    return this.json("POST", `images/${encodeURIComponent(id)}/ask`, { prompts }, signal);
  }

  draft(id, draft) {
    return this.json("PUT", `images/${encodeURIComponent(id)}/draft`, draft);
  }

  accept(id, draft) {
    return this.json("POST", `images/${encodeURIComponent(id)}/accept`, draft);
  }

  skip(id, reason) {
    return this.json("POST", `images/${encodeURIComponent(id)}/skip`, { reason });
  }

  reopen(id) {
    return this.json("POST", `images/${encodeURIComponent(id)}/reopen`, {});
  }

  /**
   * Follow the server's events for ever; after a break from the last one on.
   *
   * A fetch and not an EventSource, which cannot send the token.
   *
   * @param {(name: string, data: any) => void} heard
   * @param {(there: boolean) => void} connection  told whenever the stream begins or breaks
   */
  async follow(heard, connection) {
    let last = "";
    for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
      const stop = new AbortController();
      let alarm = setTimeout(() => stop.abort(), SILENCE);
      try {
        const response = await this.fetch(`events?tab=${encodeURIComponent(this.tab)}`, {
          signal: stop.signal,
          headers: last ? { "Last-Event-ID": last } : {},
        });
        connection(true);
        wait = 250;
        const parser = new EventParser();
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          clearTimeout(alarm);
          alarm = setTimeout(() => stop.abort(), SILENCE);
          for (const { id, name, data } of parser.push(value)) {
            if (id) last = id;
            heard(name, JSON.parse(data));
          }
        }
      } catch (error) {
        if (error instanceof Refusal && (error.status === 401 || error.status === 403)) {
          heard("refused", error);
          return;
        }
      }
      clearTimeout(alarm);
      connection(false);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

/** Server-sent events out of pieces of text, whatever their borders. */
export class EventParser {
  #text = "";

  /** @param {string} piece @returns {{id: string, name: string, data: string}[]} what is complete */
  push(piece) {
    this.#text += piece;
    const blocks = this.#text.split(/\r?\n\r?\n/);
    this.#text = blocks.pop() ?? "";
    return blocks.map(parseEvent).filter((event) => event.data !== "");
  }
}

/** @param {string} block */
function parseEvent(block) {
  const event = { id: "", name: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([a-z]*): ?(.*)$/.exec(line) ?? [];
    if (field === "id") event.id = value;
    else if (field === "event") event.name = value;
    else if (field === "data") event.data += event.data ? `\n${value}` : value;
  }
  return event;
}
