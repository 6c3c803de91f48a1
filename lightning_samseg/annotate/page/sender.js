/**
 * Brings the drafts of one image to the server: one at a time, the newest wins, in this browser first.
 *
 * @typedef {"saving"|"saved"|"kept"|"full"} Status  kept: in this browser alone, the server is gone; full: its disk is
 */

import { Refusal } from "./api.js";
import { Store } from "./store.js";
import { same } from "./reconcile.js";

const AGAIN = 3000; // ms until the next try

export class Sender {
  /**
   * @param {import("./api.js").Api} api @param {Store} store @param {string} workspace @param {string} id
   * @param {number} revision  the newest one of the server
   * @param {{status: (status: Status) => void, lost: (refusal: Refusal) => void}} told  lost: the server has another
   *   draft than the one that this one goes on from, or another tab has the image
   */
  constructor(api, store, workspace, id, revision, told) {
    Object.assign(this, { api, store, id, revision, told });
    this.key = Store.key(workspace, id);
    this.workspace = workspace;
    /** The newest draft that the server has not got. */
    this.waiting = null;
    this.running = false;
    this.stopped = false;
    /** Resolves when the calls so far are answered. */
    this.finished = Promise.resolve();
    this.wake = () => {};
  }

  /** @param {object} draft  as Draft.kept */
  send(draft) {
    this.#put({ draft, accept: false });
  }

  /** @returns {Promise<object|null>} the server's answer, whenever it comes; null: it was refused */
  accept(draft) {
    return new Promise((resolve) => this.#put({ draft, accept: true, resolve }));
  }

  /** Nothing more is sent; what was not sent stays in this browser. */
  stop() {
    this.stopped = true;
    this.wake();
  }

  #put(item) {
    this.waiting = item;
    if (!this.running && !this.stopped) this.finished = this.#run();
  }

  async #run() {
    this.running = true;
    while (this.waiting && !this.stopped) {
      const item = this.waiting;
      await this.#keep(item, false);
      this.told.status("saving");
      try {
        const { mask, prompts, effort } = item.draft;
        const body = { revision: this.revision, prompts, mask, effort };
        const answer = await (item.accept ? this.api.accept(this.id, body) : this.api.draft(this.id, body));
        this.revision = answer.revision;
        await this.#done(item, answer);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        await this.#refused(error, item);
      }
    }
    this.running = false;
  }

  async #done(item, answer) {
    if (this.waiting === item) {
      this.waiting = null;
      if (item.accept) await this.store.delete(this.key);
      else await this.#keep(item, true);
      this.told.status("saved");
    }
    item.resolve?.(answer);
  }

  async #refused(refusal, item) {
    const { answer } = refusal;
    if (refusal.status === 0 || refusal.status >= 500) {
      this.told.status(refusal.status === 507 ? "full" : "kept");
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, AGAIN);
      });
    } else if (refusal.status === 409 && !item.accept && same(item.draft, answer) && !answer.lease) {
      this.revision = answer.revision; // it had arrived, the answer had not
      await this.#done(item, answer);
    } else {
      this.stop();
      this.told.lost(refusal);
      item.resolve?.(null);
    }
  }

  #keep({ draft, accept }, isSent) {
    const { key, workspace, id, revision } = this;
    return this.store.put({ key, workspace, id, revision, sent: isSent, accept, draft });
  }
}
