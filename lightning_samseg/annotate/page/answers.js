/**
 * What the server has said about the prompts of one image.
 *
 * @typedef {import("./rle.js").Runs} Runs
 * @typedef {{sam: Runs, fused: Runs|null, crop?: [number, number, number, number], alpha?: number|null}} Answer
 */

import { decode } from "./rle.js";

export class Answers {
  constructor() {
    /** @type {Map<string, Answer>} */
    this.known = new Map();
    /** Answers have no fused mask here: the image is one of --blind. */
    this.blind = false;
  }

  /** @param {object[]} prompts @param {{prompts: Answer[]}} answer  in the same order @param {boolean} samOnly */
  add(prompts, answer, samOnly) {
    prompts.forEach((prompt, i) => {
      const key = JSON.stringify(prompt);
      const known = this.known.get(key);
      if (samOnly && known) return;
      this.known.set(key, { ...answer.prompts[i], early: samOnly });
    });
  }

  /** @returns {Answer|undefined} */
  of(prompt) {
    return this.known.get(JSON.stringify(prompt));
  }

  /** Whether the answers are all there, the network's included. */
  complete(prompts) {
    return prompts.every((prompt) => this.of(prompt) && !this.of(prompt).early);
  }

  /** What the draft starts from: the fused mask, or SAM's where that is hidden. */
  start(prompt) {
    const answer = this.of(prompt);
    return answer && !answer.early ? decode(answer.fused ?? answer.sam) : null;
  }

  /** Where the network looked for each prompt, as far as that is known. @param {object[]} prompts */
  crops(prompts) {
    return prompts.map((prompt) => this.of(prompt)?.crop);
  }

  /** Take out of a mask what came by one prompt and by none of the others. @param {Uint8Array} data */
  takeOut(data, prompt, others) {
    const gone = this.start(prompt);
    const kept = others.map((other) => this.start(other)).filter(Boolean);
    for (let i = 0; gone && i < data.length; i += 1) {
      if (gone.data[i] && !kept.some((other) => other.data[i])) data[i] = 0;
    }
  }

  /** All masks of a kind in one; null if there is none. @param {object[]} prompts @param {"sam"|"fused"} kind */
  union(prompts, kind) {
    let all = null;
    for (const prompt of prompts) {
      const runs = this.of(prompt)?.[kind];
      if (!runs) continue;
      if (!all) all = decode(runs);
      else add(all.data, runs.counts);
    }
    return all;
  }
}

/** Set the pixels of some runs. */
function add(data, counts) {
  let start = 0;
  counts.forEach((count, i) => {
    if (i % 2) data.fill(1, start, start + count);
    start += count;
  });
}
