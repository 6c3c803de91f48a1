/**
 * What the expert makes of one image: a mask, prompts, and how they came about, step by step.
 *
 * A step keeps which pixels it has flipped and the prompts before and after it. Flipping them again undoes it, and once
 * more redoes it; so a step is small, is the same in both directions, and goes through JSON (undo survives a reload).
 *
 * @typedef {import("./mask.js").Rect} Rect
 * @typedef {{box: Rect} | {point: [number, number]}} Prompt
 * @typedef {{rect: Rect, counts: number[]}} Patch  runs of the flipped pixels of a rectangle
 * @typedef {{kind: string, patches: Patch[], before: Prompt[], after: Prompt[], waits?: boolean}} Step
 *   waits: the answer to its new prompt is not here yet
 */

import { copyRect, emptyMask, reach, unite } from "./mask.js";
import { decode, encode, runLengths } from "./rle.js";

const MOST_STEPS = 300;

export class Draft {
  /** @param {number} width @param {number} height */
  constructor(width, height) {
    /** What is shown; a tool draws here. */
    this.mask = emptyMask(width, height);
    /** The mask as it was after the last step. */
    this.base = emptyMask(width, height);
    /** @type {Prompt[]} */
    this.prompts = [];
    /** @type {Step[]} */
    this.steps = [];
    /** Steps that are not undone. */
    this.done = 0;
    /** The expert has said that there is nothing to outline. */
    this.nothing = false;
    this.effort = { seconds: 0, strokes: 0, undos: 0 };
  }

  /** Take over what the server or this browser has kept. */
  load({ mask, prompts = [], effort, steps = [], done = steps.length, nothing = false }) {
    if (mask) this.mask = decode(mask);
    this.base = { ...this.mask, data: this.mask.data.slice() };
    this.prompts = prompts;
    this.steps = steps;
    this.done = done;
    this.nothing = nothing;
    this.effort = { ...this.effort, ...effort };
  }

  /** As load takes it. */
  kept() {
    const { prompts, effort, steps, done, nothing } = this;
    return { mask: encode(this.base), prompts, effort, steps, done, nothing };
  }

  /** Whether anything was drawn, or asked for. */
  get touched() {
    return this.prompts.length > 0 || this.base.data.includes(1);
  }

  get canUndo() {
    return this.done > 0;
  }

  get canRedo() {
    return this.done < this.steps.length;
  }

  /**
   * Make one step of what a tool has drawn, of new prompts, or of both.
   *
   * @param {string} kind
   * @param {Rect|null} rect  where the mask may have changed since the last step
   * @param {{prompts?: Prompt[], waits?: boolean, nothing?: boolean}} [more]
   * @returns {Step|null} null if nothing has changed
   */
  commit(kind, rect, { prompts = this.prompts, waits, nothing = false } = {}) {
    const patch = rect && this.#patch(rect);
    if (!patch && prompts === this.prompts && nothing === this.nothing) return null;
    /** @type {Step} */
    const step = { kind, patches: patch ? [patch] : [], before: this.prompts, after: prompts, ...(waits && { waits }) };
    this.steps.length = this.done;
    this.steps.push(step);
    if (this.steps.length > MOST_STEPS) this.steps.shift();
    this.done = this.steps.length;
    this.prompts = prompts;
    this.nothing = nothing;
    if (kind === "stroke") this.effort.strokes += 1;
    return step;
  }

  /**
   * Prompts whose boxes take in what is painted across the border of their crop.
   *
   * @param {(Rect|null|undefined)[]} crops  of the prompts @param {number} chosen  the only one; -1: all
   * @returns {Prompt[]} the very prompts if nothing is painted there
   */
  enlarged(crops, chosen = -1) {
    const larger = this.prompts.map((prompt, i) => {
      if (!prompt.box || !crops[i] || (chosen >= 0 && i !== chosen)) return prompt;
      const box = reach(this.base, crops[i]);
      return box.join() === crops[i].join() ? prompt : { box };
    });
    return larger.every((prompt, i) => prompt === this.prompts[i]) ? this.prompts : larger;
  }

  /** Put another mask in the place of this one, as a step; null: an empty one. */
  replace(kind, mask, more) {
    if (mask) this.mask.data.set(mask.data);
    else this.mask.data.fill(0);
    return this.commit(kind, [0, 0, this.mask.width, this.mask.height], more);
  }

  /** Forget what a tool has drawn since the last step. @param {Rect|null} rect */
  cancel(rect) {
    if (rect) copyRect(this.base, this.mask, rect);
  }

  /**
   * Add pixels to a step that was made before they were known: the answer to its prompt. Later steps stay as they are,
   * because flips can be done in any order.
   *
   * @param {Step} step @param {import("./mask.js").Mask} answer
   * @returns {Rect|null} what has changed
   */
  answer(step, answer) {
    if (this.steps.indexOf(step) >= this.done) return null; // undone meanwhile; it still waits
    delete step.waits;
    for (let i = 0; i < answer.data.length; i += 1) this.mask.data[i] |= answer.data[i];
    const patch = this.#patch([0, 0, this.mask.width, this.mask.height]);
    if (patch) step.patches.push(patch);
    return patch?.rect ?? null;
  }

  /** @returns {Rect|null} what has changed */
  undo() {
    const step = this.steps[this.done - 1];
    if (!step) return null;
    this.done -= 1;
    this.effort.undos += 1;
    this.prompts = step.before;
    this.nothing = false;
    return this.#flip(step);
  }

  /** @returns {Rect|null} what has changed */
  redo() {
    const step = this.steps[this.done];
    if (!step) return null;
    this.done += 1;
    this.prompts = step.after;
    this.nothing = step.kind === "nothing";
    return this.#flip(step);
  }

  /** Take a step back for good: its prompt was refused. @param {Step} step @returns {Rect|null} what has changed */
  withdraw(step) {
    const place = this.steps.indexOf(step);
    if (place < 0) return null;
    const done = place < this.done;
    const gone = step.after.filter((prompt) => !step.before.includes(prompt)).map((prompt) => JSON.stringify(prompt));
    const without = (prompts) => prompts.filter((prompt) => !gone.includes(JSON.stringify(prompt)));
    this.steps.splice(place, 1);
    for (const other of this.steps.slice(place)) {
      Object.assign(other, { before: without(other.before), after: without(other.after) });
    }
    if (!done) return null;
    this.done -= 1;
    this.prompts = without(this.prompts);
    return this.#flip(step);
  }

  /** The difference of mask and base in a rectangle, tight; base follows. @returns {Patch|null} */
  #patch([x0, y0, x1, y1]) {
    const { width, data } = this.mask;
    const base = this.base.data;
    let [left, top, right, bottom] = [x1, y1, x0, y0];
    for (let y = y0; y < y1; y += 1) {
      for (let x = x0, i = y * width + x0; x < x1; x += 1, i += 1) {
        if (data[i] !== base[i]) {
          if (x < left) left = x;
          if (x >= right) right = x + 1;
          if (y < top) top = y;
          bottom = y + 1;
        }
      }
    }
    if (bottom <= top) return null;
    /** @type {Rect} */
    const rect = [left, top, right, bottom];
    const flipped = new Uint8Array((right - left) * (bottom - top));
    for (let y = top, j = 0; y < bottom; y += 1) {
      for (let i = y * width + left; i < y * width + right; i += 1, j += 1) flipped[j] = data[i] ^ base[i];
    }
    copyRect(this.mask, this.base, rect);
    return { rect, counts: runLengths(flipped) };
  }

  #flip(step) {
    let changed = null;
    for (const { rect, counts } of step.patches) {
      const [x0, y0, x1, y1] = rect;
      const flipped = decode({ size: [y1 - y0, x1 - x0], counts }).data;
      for (let y = y0, j = 0; y < y1; y += 1) {
        for (let i = y * this.base.width + x0; i < y * this.base.width + x1; i += 1, j += 1) {
          this.base.data[i] ^= flipped[j];
        }
      }
      copyRect(this.base, this.mask, rect);
      changed = unite(changed, rect);
    }
    return changed;
  }
}
