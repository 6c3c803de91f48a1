/** What an image that is opened goes on with: the server's draft, the one that this browser has kept, or nothing. */

import { Refusal } from "./api.js";
import { sameRuns } from "./rle.js";

/**
 * @param {import("./store.js").Kept|null|undefined} kept
 * @param {{image: {state: string}, size: [number, number], revision: number, mask: object|null, accepted: object|null,
 *   prompts: object[], effort: object}} answer  to open
 * @returns {{draft: object, state: "ready"|"accepted"|"skipped", send?: boolean, accept?: boolean, other?: object}}
 *   draft: to go on with; send, accept: the server has not got that yet; other: what this browser has and the server has
 *   not, although it has moved on; then the expert chooses
 */
export function reconcile(kept, answer) {
  const { accepted, mask, prompts, effort, revision, image } = answer;
  const closed = (image.state === "accepted" && !mask) || image.state === "skipped";
  const state = closed ? image.state : "ready";
  const theirs = { mask: closed ? (accepted ?? mask) : (mask ?? accepted), prompts, effort };
  const mine = kept && kept.draft.mask.size.join() === answer.size.join() ? kept.draft : null;
  if (!mine) return { draft: theirs, state };
  if (!kept.sent && kept.revision === revision) {
    return { draft: mine, state: "ready", send: !kept.accept, accept: kept.accept };
  }
  if (same(mine, theirs)) return { draft: mine, state }; // here are the steps of undo, too
  return kept.sent ? { draft: theirs, state } : { draft: theirs, state, other: mine };
}

/** Whether two drafts show the same. */
export function same(a, b) {
  return (
    Boolean(a.mask && b.mask) && sameRuns(a.mask, b.mask) && JSON.stringify(a.prompts) === JSON.stringify(b.prompts)
  );
}

/** What became of an image that could not be opened, and why. @param {Error} error @returns {[string, string]} */
export function stateAfter(error) {
  if (!(error instanceof Refusal)) return ["failed", error.message];
  if (error.unreachable) return ["unreachable", "The server does not answer. This page tries again."];
  return [error.status === 409 ? "elsewhere" : "failed", error.message];
}
