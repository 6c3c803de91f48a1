/**
 * The masks on the screen: a translucent fill, a sharp outline, SAM's outline dashed over it.
 *
 * Every pixel of the screen looks up the image pixel under its centre, so that masks are never resampled, outlines stay
 * one line wide at any zoom, and a stroke costs only the rectangle it touches.
 */

const FILL = 0x5ad0b43c; // alpha, blue, green, red
const OUTLINE = 0xfff5e08c;
const SAM = 0xff3ea6ff;
const GAP = 0x8c101010; // between dashes, so that they can be seen on bright ground
const DASH = 6; // pixels of the screen, along x + y

/**
 * Where the columns and rows of a piece of the screen lie in the image: index = column + row, or outside if either
 * is negative. Turning by quarters keeps it a sum.
 *
 * @param {import("./view.js").View} view @param {number} dpr
 * @param {[number, number, number, number]} rect  of the screen, in device pixels
 * @returns {{columns: Int32Array, rows: Int32Array}}
 */
export function lookUp(view, dpr, [x0, y0, x1, y1]) {
  const turned = view.quarters % 2 === 1;
  const { width, height } = view;
  const along = (place, isColumn) => {
    const centre = (place + 0.5) / dpr;
    const [x, y] = view.toImage(isColumn ? centre : 0, isColumn ? 0 : centre);
    const column = isColumn !== turned;
    const value = Math.floor(column ? x : y);
    if (value < 0 || value >= (column ? width : height)) return -1;
    return column ? value : value * width;
  };
  return {
    columns: Int32Array.from({ length: x1 - x0 }, (_, i) => along(x0 + i, true)),
    rows: Int32Array.from({ length: y1 - y0 }, (_, i) => along(y0 + i, false)),
  };
}

/**
 * Colours of a piece of the screen.
 *
 * @param {Uint8Array} mask @param {Uint8Array|null} sam  at the image's size
 * @param {{columns: Int32Array, rows: Int32Array}} places  of the piece and of `line` more on every side
 * @param {number} line  thickness of outlines, device pixels
 * @param {Uint32Array} out  of the piece alone
 * @param {number} phase  of the dashes: x + y of the piece's first pixel
 */
export function paint(mask, sam, { columns, rows }, line, out, phase) {
  const wide = columns.length;
  const codes = new Uint8Array(wide * rows.length); // 1: mask, 2: SAM
  for (let y = 0, i = 0; y < rows.length; y += 1) {
    const row = rows[y];
    for (let x = 0; x < wide; x += 1, i += 1) {
      const column = columns[x];
      if (row >= 0 && column >= 0) codes[i] = sam ? mask[row + column] | (sam[row + column] << 1) : mask[row + column];
    }
  }
  const width = wide - 2 * line;
  const height = rows.length - 2 * line;
  for (let y = 0, j = 0; y < height; y += 1) {
    for (let x = 0, i = (y + line) * wide + line; x < width; x += 1, i += 1, j += 1) {
      const code = codes[i];
      if (!code) {
        out[j] = 0;
        continue;
      }
      const inner = codes[i - line] & codes[i + line] & codes[i - line * wide] & codes[i + line * wide];
      const edge = code & ~inner;
      if (edge & 2) out[j] = (phase + x + y) % (2 * DASH) < 1.4 * DASH ? SAM : GAP;
      else if (edge & 1) out[j] = OUTLINE;
      else out[j] = code & 1 ? FILL : 0;
    }
  }
}
