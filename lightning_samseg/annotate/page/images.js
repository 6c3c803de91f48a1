/** The images of the workspace: their order, and the pixels of the next ones, ready before they are asked for. */

import { readPixels } from "./tones.js";

const AHEAD = 3;
const KEPT = 6;

export class Images {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    /** @type {object[]} in the order in which they are offered */
    this.all = [];
    /** @type {Map<string, Promise<import("./tones.js").Pixels>>} */
    this.pixels = new Map();
  }

  /** @returns {object|undefined} */
  of(id) {
    return this.all.find((image) => image.id === id);
  }

  /** Take over what the server says about one. */
  update(image) {
    const known = this.of(image.id);
    if (known) Object.assign(known, image);
    return known;
  }

  /** How many need no more work. */
  get done() {
    return this.all.filter((image) => image.state !== "open" && image.state !== "draft").length;
  }

  /** The first one after an image that is still to be done and free. */
  todo(after) {
    return this.#following(after).find(
      (image) =>
        (image.state === "open" || image.state === "draft") && (!image.lease || image.lease.tab === this.api.tab),
    );
  }

  #following(id) {
    const place = this.all.findIndex((image) => image.id === id);
    return [...this.all.slice(place + 1), ...this.all.slice(0, Math.max(0, place))];
  }

  /** The one so many places further in the list. */
  beside(id, step) {
    return this.all[this.all.findIndex((image) => image.id === id) + step];
  }

  /** Pixels of an image, at once where they were fetched ahead. */
  load(id) {
    let loading = this.pixels.get(id);
    if (!loading) {
      loading = this.api.pixels(id).then(readPixels);
      loading.catch(() => this.pixels.delete(id));
    }
    this.pixels.delete(id);
    this.pixels.set(id, loading); // newest last
    for (const old of this.pixels.keys()) {
      if (this.pixels.size <= KEPT) break;
      this.pixels.delete(old);
    }
    return loading;
  }

  /** Fetch what comes next, one after the other. */
  async prepare(id) {
    const coming = this.#following(id).filter((image) => image.state === "open" || image.state === "draft");
    const beside = this.beside(id, 1); // for those who page through the list
    for (const image of [...new Set([...coming.slice(0, AHEAD), beside])].filter(Boolean)) {
      if (!this.pixels.has(image.id)) await this.load(image.id).catch(() => {});
    }
  }
}

/** Name, number and count of a slice, if a name is one of a volume. @param {object[]} all @param {object} image */
export function sliceOf(all, image) {
  const found = /^(.*)_slice_(\d+)$/.exec(image.name);
  if (!found) return null;
  const count = all.filter((other) => other.name.startsWith(`${found[1]}_slice_`)).length;
  return { volume: found[1], slice: Number(found[2]), count };
}
