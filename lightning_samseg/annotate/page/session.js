/**
 * The image on the desk: its pixels, its draft, the answers to its prompts, and whether it may be changed.
 *
 * @typedef {"empty"|"loading"|"ready"|"accepted"|"skipped"|"elsewhere"|"conflict"|"unreachable"|"failed"} State
 */

import { Refusal } from "./api.js";
import { Answers } from "./answers.js";
import { Draft } from "./draft.js";
import { decode } from "./rle.js";
import { reconcile, stateAfter } from "./reconcile.js";
import { Sender } from "./sender.js";
import { Store } from "./store.js";

export class Session {
  /**
   * @param {import("./api.js").Api} api @param {Store} store @param {import("./view.js").View} view
   * @param {object} told  what the page hears: changed(), say(text, kind), status(status, sender), accepted(id, answer)
   */
  constructor(api, store, view, told) {
    Object.assign(this, { api, store, view, told });
    /** @type {State} */
    this.state = "empty";
    this.reason = "";
    this.say = told.say;
    this.workspace = "";
    this.image = null;
    this.draft = new Draft(0, 0);
    this.answers = new Answers();
    /** @type {Sender|null} */
    this.sender = null;
    this.asking = null;
    /** The accept before: the network's answers must not overtake it. */
    this.before = Promise.resolve();
    /** Set by the page: whether a tool is drawing. */
    this.busy = () => false;
    this.conflict = null; // both drafts, if the server has another one than this browser
    /** The expert has turned the window. */
    this.windowed = false;
  }

  /**
   * Put an image on the desk: show its pixels, then take its lease and whatever is known of it.
   *
   * @param {object} image  as listed @param {Promise<import("./tones.js").Pixels>} pixels
   * @param {boolean} takeOver  also if another tab has it
   * @param {{window: [number, number], size: string}|null} kept  of the slice before: window, and where one looks
   */
  async open(image, pixels, takeOver = false, kept = null) {
    this.leave();
    this.image = image;
    this.draft = new Draft(0, 0);
    this.answers = new Answers();
    this.conflict = null;
    this.windowed = Boolean(kept?.window);
    this.#set("loading");
    const opened = this.api.open(image.id, takeOver).then(
      (answer) => ({ answer }),
      (error) => ({ error }),
    );
    try {
      const values = await pixels;
      if (this.image !== image) return;
      this.draft = new Draft(values.width, values.height);
      this.view.show(values, kept?.window ?? values.window);
      this.view.mask = this.draft.mask.data;
      if (kept?.size !== `${values.width} x ${values.height}`) this.view.fit();
      this.told.changed();
    } catch (error) {
      if (this.image === image) this.#set(...stateAfter(error));
      return;
    }
    const { answer, error } = await opened;
    if (this.image !== image) return;
    if (error) this.#set(...stateAfter(error));
    else await this.#take(answer);
  }

  /** Leave the image as it is. */
  leave() {
    this.asking?.abort();
    this.asking = null;
    this.image = null;
    this.sender = null; // goes on until all is sent
    this.view.sam = null;
    this.view.width = 0;
    this.view.redraw();
  }

  #set(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.told.changed();
  }

  async #take(answer) {
    const { image } = this;
    const { reason } = answer.image;
    this.answers.blind = answer.blind;
    const kept = await this.store.get(Store.key(this.workspace, image.id));
    if (this.image !== image) return;
    this.sender = this.#sender(answer.revision);
    const found = reconcile(kept, answer);
    this.#load(found.draft);
    if (found.other) this.#disagree(found.other, answer);
    else this.#set(found.state, reason ?? "");
    if (found.accept) this.accept();
    else if (found.send) this.sender.send(found.draft);
    await this.refresh();
  }

  #load(content) {
    this.draft.load({ ...content, effort: content.effort ?? {} });
    this.view.mask = this.draft.mask.data;
    this.view.redrawMasks();
  }

  #sender(revision) {
    const { image } = this;
    const sender = new Sender(this.api, this.store, this.workspace, image.id, revision, {
      status: (status) => this.told.status(status, sender),
      lost: (refusal) => this.#lost(refusal, image),
    });
    return sender;
  }

  #lost(refusal, image) {
    const { answer, message, status } = refusal;
    if (this.image !== image) {
      const where = "Your draft is kept in this browser; open the image to see both.";
      this.told.say(`${image.name}: ${message} ${where}`, "bad");
    } else if (status !== 409) this.#set(...stateAfter(refusal));
    else if (answer.lease && answer.lease.tab !== this.api.tab) this.#set("elsewhere", message);
    else this.#disagree(this.draft.kept(), answer);
  }

  #disagree(mine, theirs) {
    this.conflict = { mine, theirs };
    this.#set("conflict", "This image was changed elsewhere since you have opened it.");
  }

  /** Go on with one of both drafts. @param {"mine"|"theirs"} which */
  async settle(which) {
    const { image, conflict } = this;
    const answer = await this.api.open(image.id, true).catch((error) => this.#set(...stateAfter(error)));
    if (!answer || this.image !== image) return;
    this.conflict = null;
    this.sender = this.#sender(answer.revision);
    const { width, height } = this.draft.mask;
    this.draft = new Draft(width, height);
    this.#load(
      which === "mine" ? conflict.mine : { mask: answer.mask, prompts: answer.prompts, effort: answer.effort },
    );
    this.#set("ready");
    this.#keep();
    await this.refresh();
  }

  /** Another tab has taken the image, says the server. */
  taken() {
    if (this.state === "ready" || this.state === "loading") {
      this.sender?.stop();
      this.#set("elsewhere", "Open in another tab or by another person.");
    }
  }

  editable() {
    if (this.state !== "ready") this.told.remind();
    return this.state === "ready";
  }

  // What tools and keys do. All of it ends in a step, and each step is sent.

  commit(kind, rect, more) {
    const step = this.draft.commit(kind, rect, more);
    if (step) this.#keep();
    this.told.changed();
    return step;
  }

  #keep() {
    this.sender?.send(this.draft.kept());
  }

  /** A tool has finished: answers that came meanwhile can be drawn. */
  idle() {
    if (this.state === "ready") this.#applyAnswers();
    this.told.changed();
  }

  async addPrompt(prompt) {
    const { draft } = this;
    if (draft.prompts.some((other) => JSON.stringify(other) === JSON.stringify(prompt))) return;
    this.commit("prompt", null, { prompts: [...draft.prompts, prompt], waits: true });
    await this.refresh();
  }

  /** Take an object out: its prompt, and the pixels that came by it alone. */
  removePrompt(index) {
    const { draft, answers } = this;
    const [prompt, rest] = [draft.prompts[index], draft.prompts.filter((_, i) => i !== index)];
    if (!prompt || !this.editable()) return;
    const mask = { ...draft.mask, data: draft.mask.data.slice() };
    answers.takeOut(mask.data, prompt, rest);
    draft.replace("delete", mask, { prompts: rest });
    this.#replaced();
  }

  /** Larger boxes where paint crosses the border of a crop: what is outside cannot be learned. */
  async enlarge(chosen) {
    const { draft, answers } = this;
    if (!this.editable()) return;
    const prompts = draft.enlarged(answers.crops(draft.prompts), chosen);
    if (this.commit("prompt", null, { prompts })) await this.refresh();
    else this.told.say("No paint crosses the border of a box.");
  }

  #replaced() {
    this.#keep();
    this.#showSam();
    this.told.changed();
  }

  /** Start from another mask. @param {"fused"|"sam"|"empty"} kind */
  start(kind) {
    const { draft, answers } = this;
    if (!this.editable()) return;
    const all = kind === "empty" ? null : answers.union(draft.prompts, kind);
    if (kind !== "empty" && !all) {
      const hidden = kind === "fused" && answers.blind && draft.prompts.length;
      this.told.say(
        hidden
          ? "The fused mask of this image is hidden until it is accepted (--blind)."
          : "There is no answer to start from yet: draw a prompt first.",
      );
      return;
    }
    draft.replace("start", all);
    this.#replaced();
  }

  /** There is nothing to outline here. @returns {boolean} whether it can be accepted at once */
  nothing() {
    const { draft } = this;
    if (!this.editable()) return false;
    const { touched } = draft;
    draft.replace("nothing", null, { prompts: [], nothing: true });
    this.#replaced();
    if (touched) this.told.say("Nothing here: Enter accepts the empty mask, Ctrl+Z brings the drawing back.");
    return !touched;
  }

  undo() {
    if (this.editable()) this.#stepped(this.draft.undo());
  }

  redo() {
    if (this.editable()) this.#stepped(this.draft.redo());
  }

  #stepped(rect) {
    this.view.redrawMasks(rect);
    this.#replaced();
    this.refresh();
  }

  setWindow(window) {
    this.view.setWindow(window);
    this.windowed = true;
    this.told.changed();
  }

  // Answers

  /** Ask about prompts that have no answer yet: SAM's first, which waits for no lesson. */
  async refresh() {
    const { image, draft, answers } = this;
    const { prompts } = draft;
    this.asking?.abort();
    this.#applyAnswers();
    if (this.state !== "ready" || !prompts.length || answers.complete(prompts)) return;
    const asking = new AbortController();
    this.asking = asking;
    this.told.changed();
    try {
      await this.before;
      for (const samOnly of [true, false]) {
        if (asking.signal.aborted) return;
        const answer = await this.api.ask(image.id, prompts, samOnly, asking.signal);
        if (this.image !== image) return;
        answers.add(prompts, answer, samOnly);
        if (samOnly) this.#showSam();
        else this.told.answered(answer);
        this.#applyAnswers();
      }
    } catch (error) {
      if (asking.signal.aborted || this.image !== image) return;
      if (!(error instanceof Refusal)) throw error;
      this.#refuse(error);
    } finally {
      if (this.asking === asking) this.asking = null;
      this.told.changed();
    }
  }

  #refuse(refusal) {
    if (refusal.unreachable) return; // asked again when the server is back
    const step = this.draft.steps.findLast((each) => each.waits);
    const prompt = step?.after.at(-1);
    if (step && refusal.status === 422) {
      this.view.redrawMasks(this.draft.withdraw(step));
      this.#keep();
    }
    this.told.say(refusal.message, "bad", prompt);
  }

  #applyAnswers() {
    if (this.busy()) return; // what is being drawn is not the answer's
    let changed = false;
    for (const step of this.draft.steps.slice(0, this.draft.done)) {
      const answer = step.waits && this.answers.start(step.after.at(-1));
      if (answer) {
        this.view.redrawMasks(this.draft.answer(step, answer));
        changed = true;
      }
    }
    if (changed) {
      this.#keep();
      this.told.changed();
    }
  }

  #showSam() {
    this.view.sam = this.answers.union(this.draft.prompts, "sam")?.data ?? null;
    this.view.redrawMasks();
  }

  get waits() {
    return this.draft.steps.slice(0, this.draft.done).some((step) => step.waits);
  }

  // The end of it

  /** @returns {boolean} whether it is on its way; the answer comes by told.accepted */
  accept() {
    const { draft, image, sender } = this;
    if (!this.editable()) return false;
    if (this.waits) {
      this.told.say("The answer to your prompt is on its way; look at it before you accept.");
      return false;
    }
    if (!draft.touched && !draft.nothing) {
      this.told.say("Nothing is outlined. Draw a prompt, or press 0 if there is nothing here.");
      return false;
    }
    this.state = "accepted";
    const { mask } = draft;
    this.before = sender.accept(draft.kept()).then((answer) => {
      if (!answer) return;
      const fused = answer.fused && decode(answer.fused);
      const differ = fused ? fused.data.reduce((sum, value, i) => sum + (value ^ mask.data[i]), 0) : null;
      this.told.accepted(image.id, answer, differ);
    });
    return true;
  }

  async skip(reason) {
    const { image, sender } = this;
    if (!sender) return null;
    sender.stop();
    await sender.finished;
    try {
      const answer = await this.api.skip(image.id, sender.revision, reason);
      await this.store.delete(sender.key);
      return answer;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.told.say(error.message, "bad");
      if (this.image === image) this.sender = this.#sender(sender.revision);
      this.#keep();
      return null;
    }
  }

  async reopen() {
    const { image } = this;
    try {
      const answer = await this.api.reopen(image.id);
      if (this.image !== image) return;
      this.sender = this.#sender(answer.revision);
      this.#load({ mask: answer.mask ?? answer.accepted, prompts: answer.prompts, effort: answer.effort });
      this.#set("ready");
      await this.refresh();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.told.say(error.message, "bad");
    }
  }
}
