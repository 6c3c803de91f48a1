/**
 * Masks as run lengths: row-major, background first, with the sum height * width; COCO's go by column.
 *
 * @typedef {{size: [number, number], counts: number[]}} Runs  size: height, width
 */

/** Lengths of alternating runs of 0 and 1. @param {Uint8Array} data @returns {number[]} */
export function runLengths(data) {
  const counts = [];
  for (let start = 0, value = 0; start < data.length; value = 1 - value) {
    const found = data.indexOf(1 - value, start);
    const end = found < 0 ? data.length : found;
    counts.push(end - start);
    start = end;
  }
  return counts;
}

/** @param {import("./mask.js").Mask} mask @returns {Runs} */
export function encode(mask) {
  return { size: [mask.height, mask.width], counts: runLengths(mask.data) };
}

/**
 * @param {Runs} runs
 * @returns {import("./mask.js").Mask}
 * @throws {Error} if the runs do not add up to the size
 */
export function decode({ size: [height, width], counts }) {
  const data = new Uint8Array(height * width);
  let start = 0;
  counts.forEach((count, i) => {
    if (i % 2) data.fill(1, start, start + count);
    start += count;
  });
  if (start !== data.length) throw new Error(`Runs add up to ${start}; expected ${height} x ${width}.`);
  return { width, height, data };
}

/** @param {Runs|null} a @param {Runs|null} b */
export function sameRuns(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
