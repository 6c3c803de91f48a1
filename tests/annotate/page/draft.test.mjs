import assert from "node:assert/strict";
import { test } from "node:test";
import { Draft } from "../../../lightning_samseg/annotate/page/draft.js";
import { area, areaOutside, capsule, emptyMask, polygon, reach } from "../../../lightning_samseg/annotate/page/mask.js";
import { reconcile } from "../../../lightning_samseg/annotate/page/reconcile.js";
import { decode, encode, runLengths } from "../../../lightning_samseg/annotate/page/rle.js";

/** mulberry32 */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const snapshot = (draft) => JSON.stringify([[...draft.mask.data], draft.prompts]);
const WHOLE = [0, 0, 37, 23];

function box(n) {
  return { box: [n, n, n + 5, n + 6] };
}

/** A random step, as a tool would make it. */
function step(draft, draw, n) {
  const choice = draw();
  if (choice < 0.5) {
    const ends = [0, 0].map(() => [draw() * 40 - 2, draw() * 26 - 2]);
    draft.commit("stroke", capsule(draft.mask, ...ends, 0.5 + draw() * 5, draw() < 0.3 ? 0 : 1));
  } else if (choice < 0.7) {
    const corners = Array.from({ length: 3 + Math.floor(draw() * 6) }, () => [draw() * 40, draw() * 26]);
    draft.commit("stroke", polygon(draft.mask, corners, draw() < 0.3 ? 0 : 1));
  } else if (choice < 0.9) {
    const made = draft.commit("prompt", null, { prompts: [...draft.prompts, box(n)], waits: true });
    const answer = emptyMask(37, 23);
    capsule(answer, [draw() * 37, draw() * 23], [draw() * 37, draw() * 23], 4, 1);
    draft.answer(made, answer);
  } else {
    draft.mask.data.fill(0);
    draft.commit("nothing", WHOLE, { prompts: [], nothing: true });
  }
}

test("undo and redo walk through every state, also after a reload", () => {
  for (let seed = 0; seed < 40; seed += 1) {
    const draw = random(seed);
    let draft = new Draft(37, 23);
    const states = [snapshot(draft)];
    for (let n = 0; n < 15; n += 1) {
      const before = draft.steps.length;
      step(draft, draw, n);
      if (draft.steps.length > before) states.push(snapshot(draft));
    }
    const again = new Draft(37, 23);
    again.load(JSON.parse(JSON.stringify(draft.kept())));
    draft = again;
    for (let at = states.length - 1; at > 0; at -= 1) {
      assert.equal(snapshot(draft), states[at]);
      draft.undo();
    }
    assert.equal(snapshot(draft), states[0]);
    assert.equal(draft.undo(), null);
    for (const state of states.slice(1)) {
      draft.redo();
      assert.equal(snapshot(draft), state);
    }
    assert.equal(draft.effort.undos, states.length - 1);
  }
});

test("an answer that comes after a stroke belongs to its prompt's step", () => {
  const draft = new Draft(37, 23);
  const asked = draft.commit("prompt", null, { prompts: [box(1)], waits: true });
  draft.commit("stroke", capsule(draft.mask, [5, 5], [9, 5], 2, 1));
  const stroke = area(draft.mask);
  const answer = emptyMask(37, 23);
  answer.data.fill(1, 37 * 10, 37 * 12);
  draft.answer(asked, answer);
  assert.equal(area(draft.mask), stroke + 74);
  draft.undo();
  assert.equal(area(draft.mask), 74);
  draft.undo();
  assert.equal(area(draft.mask), 0);
  assert.deepEqual(draft.prompts, []);
});

test("an answer to a prompt that was undone is drawn when it is redone", () => {
  const draft = new Draft(37, 23);
  const asked = draft.commit("prompt", null, { prompts: [box(1)], waits: true });
  draft.undo();
  const answer = emptyMask(37, 23);
  answer.data.fill(1, 0, 50);
  assert.equal(draft.answer(asked, answer), null);
  assert.equal(area(draft.mask), 0);
  draft.redo();
  assert.ok(asked.waits, "it still waits, and is answered again");
});

test("a refused prompt is gone from all later steps", () => {
  const draft = new Draft(37, 23);
  const refused = draft.commit("prompt", null, { prompts: [box(1)], waits: true });
  draft.commit("prompt", null, { prompts: [...draft.prompts, box(2)], waits: true });
  draft.withdraw(refused);
  assert.deepEqual(draft.prompts, [box(2)]);
  draft.undo();
  assert.deepEqual(draft.prompts, []);
  draft.redo();
  assert.deepEqual(draft.prompts, [box(2)]);
});

test("a new step ends what could be redone", () => {
  const draft = new Draft(37, 23);
  draft.commit("stroke", capsule(draft.mask, [5, 5], [5, 5], 2, 1));
  draft.undo();
  draft.commit("stroke", capsule(draft.mask, [15, 5], [15, 5], 2, 1));
  assert.equal(draft.canRedo, false);
  assert.equal(draft.steps.length, 1);
});

test("a stroke that changes nothing is no step, and a cancelled one leaves nothing", () => {
  const draft = new Draft(37, 23);
  assert.equal(draft.commit("stroke", capsule(draft.mask, [5, 5], [9, 9], 2, 0)), null);
  const rect = capsule(draft.mask, [5, 5], [9, 9], 2, 1);
  draft.cancel(rect);
  assert.equal(area(draft.mask), 0);
  assert.equal(draft.effort.strokes, 0);
});

test("runs", () => {
  assert.deepEqual(runLengths(Uint8Array.from([0, 0, 1, 1, 1, 0])), [2, 3, 1]);
  assert.deepEqual(runLengths(Uint8Array.from([1, 0])), [0, 1, 1]);
  assert.deepEqual(runLengths(new Uint8Array(4)), [4]);
  assert.throws(() => decode({ size: [2, 2], counts: [3] }));
  assert.throws(() => decode({ size: [2, 2], counts: [3, 2] }));
  const draw = random(7);
  const mask = emptyMask(37, 23);
  for (let i = 0; i < mask.data.length; i += 1) mask.data[i] = draw() < 0.5 ? 1 : 0;
  assert.deepEqual(decode(encode(mask)), mask);
});

test("paint outside of crops", () => {
  const mask = emptyMask(10, 10);
  mask.data.fill(1);
  assert.equal(areaOutside(mask, []), 100);
  assert.equal(
    areaOutside(mask, [
      [0, 0, 5, 5],
      [3, 3, 8, 8],
    ]),
    100 - 25 - 25 + 4,
  );
  assert.equal(areaOutside(mask, [[-5, -5, 20, 20]]), 0);
});

test("which draft goes on when an image is opened", () => {
  const runs = (n) => ({ size: [2, 3], counts: [n, 6 - n] });
  const answer = (more) => ({
    image: { state: "draft" }, size: [2, 3], revision: 4, mask: runs(1), accepted: null, prompts: [], effort: {}, ...more,
  });
  const kept = (more) => ({ revision: 4, sent: false, accept: false, draft: { mask: runs(2), prompts: [], steps: [1] }, ...more });
  const mine = kept().draft;
  const theirs = { mask: runs(1), prompts: [], effort: {} };
  assert.deepEqual(reconcile(undefined, answer()), { draft: theirs, state: "ready" });
  assert.deepEqual(reconcile(kept(), answer()), { draft: mine, state: "ready", send: true, accept: false });
  assert.deepEqual(reconcile(kept({ accept: true }), answer()), { draft: mine, state: "ready", send: false, accept: true });
  // It has moved on: with what was sent, with something else after all was sent, with something else before.
  assert.deepEqual(reconcile(kept({ revision: 3 }), answer({ mask: runs(2) })), { draft: mine, state: "ready" });
  assert.deepEqual(reconcile(kept({ revision: 3, sent: true }), answer()), { draft: theirs, state: "ready" });
  assert.deepEqual(reconcile(kept({ revision: 3 }), answer()), { draft: theirs, state: "ready", other: mine });
  // Another image of this name, of another size.
  assert.deepEqual(reconcile(kept({ draft: { mask: { size: [3, 3], counts: [9] } } }), answer()).draft, theirs);
  const done = answer({ image: { state: "accepted" }, mask: null, accepted: runs(3) });
  assert.deepEqual(reconcile(undefined, done), { draft: { ...theirs, mask: runs(3) }, state: "accepted" });
  assert.equal(reconcile(undefined, { ...done, mask: runs(1) }).state, "ready", "it is being corrected");
  assert.equal(reconcile(kept({ revision: 3, accept: true, draft: { ...mine, mask: runs(3) } }), done).state, "accepted");
});

test("a larger box takes in what is painted across the border of its crop", () => {
  const draft = new Draft(40, 30);
  const crop = [10, 10, 20, 20];
  draft.prompts = [{ box: crop }, { box: [30, 22, 34, 26] }, { point: [3, 3] }];
  const crops = [crop, [30, 22, 34, 26], [0, 0, 6, 6]];
  assert.equal(draft.enlarged(crops), draft.prompts);
  draft.commit("stroke", capsule(draft.mask, [15, 15], [25.5, 8.5], 1, 1));
  draft.commit("stroke", capsule(draft.mask, [5, 25], [7, 27], 1, 1)); // touches nothing
  const [larger, ...others] = draft.enlarged(crops);
  assert.deepEqual(larger, { box: [10, 7, 27, 20] });
  assert.deepEqual(others, draft.prompts.slice(1));
  assert.equal(draft.enlarged(crops, 1), draft.prompts);
  const corner = emptyMask(5, 5);
  for (const [x, y] of [[1, 1], [2, 2], [4, 3]]) corner.data[5 * y + x] = 1;
  assert.deepEqual(reach(corner, [0, 0, 2, 2]), [0, 0, 3, 3]); // by its corner; the last is one pixel away
  corner.data[5 * 3 + 3] = 1;
  assert.deepEqual(reach(corner, [0, 0, 2, 2]), [0, 0, 5, 4]);
});
