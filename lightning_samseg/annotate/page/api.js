/**
 * The server's calls, under `api/` beside this page (http.py says what each takes and answers). Relative, so that a
 * proxy's prefix does not matter.
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
    super(answer?.error ?? (status ? `The server answered ${status}.` : "The server does not answer."));
    this.status = status;
    this.answer = answer ?? {};
  }

  /** Nobody was there, or not able to work: the same call may succeed later. */
  get unreachable() {
    return this.status === 0 || [502, 503, 504].includes(this.status);
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
        headers: { Authorization: `Bearer ${this.token}`, Tab: this.tab, ...options.headers },
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
      ...(body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
    });
    return response.status === 204 ? { revision: Number(response.headers.get("Revision")) } : response.json();
  }

  workspace() {
    return this.json("GET", "workspace");
  }

  /** Raw values of an image: {height, width, channels, dtype, window, buffer}. */
  async pixels(id, signal) {
    const response = await this.fetch(`images/${encodeURIComponent(id)}/pixels`, { signal });
    const [height, width, channels = 1] = response.headers.get("Shape").split(",").map(Number);
    const window = response.headers.get("Window").split(",").map(Number);
    const dtype = response.headers.get("Dtype");
    return { height, width, channels, dtype, window, buffer: await response.arrayBuffer() };
  }

  open(id, takeOver = false) {
    return this.#post(id, "open", { tab: this.tab, take_over: takeOver });
  }

  /** With samOnly the answer waits for no lesson and has no fused mask. */
  ask(id, prompts, samOnly, signal) {
    return this.#post(id, "ask", { prompts, sam_only: samOnly }, signal);
  }

  /** @param {{revision: number, prompts: object[], mask: object, effort: object}} draft */
  draft(id, draft) {
    return this.json("PUT", `images/${encodeURIComponent(id)}/draft`, draft);
  }

  accept(id, draft) {
    return this.#post(id, "accept", draft);
  }

  skip(id, revision, reason) {
    return this.#post(id, "skip", { revision, reason });
  }

  reopen(id) {
    return this.#post(id, "reopen", {});
  }

  #post(id, call, body, signal) {
    return this.json("POST", `images/${encodeURIComponent(id)}/${call}`, body, signal);
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
        const response = await this.fetch("events", {
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
