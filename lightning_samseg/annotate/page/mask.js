/**
 * Drawing into a mask: a Uint8Array of 0 and 1, row-major, at the image's own size.
 *
 * Our own rasteriser and not the canvas', which smooths edges and differs between browsers. Positions are in image
 * pixels, (0, 0) the upper left corner of the first pixel; a pixel belongs to a shape if its centre does, border
 * included. Every function returns the rectangle it may have changed, or null.
 *
 * @typedef {{width: number, height: number, data: Uint8Array}} Mask
 * @typedef {[number, number, number, number]} Rect  x0, y0, x1, y1, half open
 */

/** @returns {Mask} */
export function emptyMask(width, height) {
  return { width, height, data: new Uint8Array(width * height) };
}

/** @param {Rect|null} a @param {Rect|null} b @returns {Rect|null} */
export function unite(a, b) {
  if (!a || !b) return a ?? b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

/** @param {Mask} mask @returns {Rect|null} null if nothing is left */
export function clip(mask, [x0, y0, x1, y1]) {
  const rect = [Math.max(0, x0), Math.max(0, y0), Math.min(mask.width, x1), Math.min(mask.height, y1)];
  return rect[0] < rect[2] && rect[1] < rect[3] ? rect : null;
}

/**
 * The pixels within `radius` of the segment from a to b, a disc if they are the same, and the pixels under both ends:
 * a small brush between pixel centres would draw nothing.
 *
 * @param {Mask} mask @param {[number, number]} a @param {[number, number]} b @param {0|1} value
 */
export function capsule(mask, a, b, radius, value) {
  const [ax, ay] = a;
  const [bx, by] = b;
  const length = Math.hypot(bx - ax, by - ay);
  const nx = length ? (-(by - ay) / length) * radius : 0;
  const ny = length ? ((bx - ax) / length) * radius : 0;
  const corners = [
    [ax + nx, ay + ny],
    [bx + nx, by + ny],
    [bx - nx, by - ny],
    [ax - nx, ay - ny],
  ];
  const rect = clip(mask, [
    Math.floor(Math.min(ax, bx) - radius),
    Math.floor(Math.min(ay, by) - radius),
    Math.floor(Math.max(ax, bx) + radius) + 1,
    Math.floor(Math.max(ay, by) + radius) + 1,
  ]);
  for (let y = rect?.[1] ?? 0; y < (rect?.[3] ?? 0); y += 1) {
    const cy = y + 0.5;
    let left = Infinity;
    let right = -Infinity;
    // The shape is convex: a row of it is one span, from the leftmost to the rightmost of its parts.
    for (const [x, centre] of [
      [ax, ay],
      [bx, by],
    ]) {
      const rest = radius * radius - (cy - centre) * (cy - centre);
      if (rest >= 0) {
        left = Math.min(left, x - Math.sqrt(rest));
        right = Math.max(right, x + Math.sqrt(rest));
      }
    }
    for (let side = 0; length > 0 && side < 4; side += 1) {
      const [x0, y0] = corners[side];
      const [x1, y1] = corners[(side + 1) % 4];
      if (y0 !== y1 && Math.min(y0, y1) <= cy && cy <= Math.max(y0, y1)) {
        const x = x0 + ((cy - y0) / (y1 - y0)) * (x1 - x0);
        left = Math.min(left, x);
        right = Math.max(right, x);
      }
    }
    const from = Math.max(0, Math.ceil(left - 0.5));
    const to = Math.min(mask.width, Math.floor(right - 0.5) + 1);
    if (from < to) mask.data.fill(value, y * mask.width + from, y * mask.width + to);
  }
  return unite(rect, unite(pixel(mask, ax, ay, value), pixel(mask, bx, by, value)));
}

function pixel(mask, x, y, value) {
  const rect = clip(mask, [Math.floor(x), Math.floor(y), Math.floor(x) + 1, Math.floor(y) + 1]);
  if (rect) mask.data[rect[1] * mask.width + rect[0]] = value;
  return rect;
}

/**
 * The inside of a closed line by the even-odd rule.
 *
 * @param {Mask} mask @param {[number, number][]} points  corners; the last joins the first @param {0|1} value
 */
export function polygon(mask, points, value) {
  if (points.length < 3) return null;
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const rect = clip(mask, [
    Math.floor(least(xs)),
    Math.floor(least(ys)),
    Math.ceil(-least(xs.map((x) => -x))),
    Math.ceil(-least(ys.map((y) => -y))),
  ]);
  for (let y = rect?.[1] ?? 0; y < (rect?.[3] ?? 0); y += 1) {
    const cy = y + 0.5;
    const crossings = [];
    for (let i = 0; i < points.length; i += 1) {
      const [x0, y0] = points[i];
      const [x1, y1] = points[(i + 1) % points.length];
      // Half open: a corner at a row's very height counts for one of its two sides.
      if (y0 <= cy !== y1 <= cy) crossings.push(x0 + ((cy - y0) / (y1 - y0)) * (x1 - x0));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const to = Math.min(mask.width, Math.floor(crossings[i + 1] - 0.5) + 1);
      if (from < to) mask.data.fill(value, y * mask.width + from, y * mask.width + to);
    }
  }
  return rect;
}

function least(values) {
  return values.reduce((a, b) => Math.min(a, b)); // a lasso has more points than Math.min takes arguments
}

/** Copy a rectangle from one mask to another of its size. */
export function copyRect(from, to, [x0, y0, x1, y1]) {
  for (let y = y0; y < y1; y += 1) {
    to.data.set(from.data.subarray(y * from.width + x0, y * from.width + x1), y * to.width + x0);
  }
}

/** How many pixels are set. */
export function area(mask) {
  let sum = 0;
  for (let i = 0; i < mask.data.length; i += 1) sum += mask.data[i];
  return sum;
}

/** How many pixels are set outside all of the rectangles. @param {Mask} mask @param {Rect[]} rects */
export function areaOutside(mask, rects) {
  if (!rects.length) return area(mask);
  const rest = { ...mask, data: mask.data.slice() };
  for (const rect of rects) {
    const inside = clip(mask, rect);
    for (let y = inside?.[1] ?? 0; y < (inside?.[3] ?? 0); y += 1) {
      rest.data.fill(0, y * mask.width + inside[0], y * mask.width + inside[2]);
    }
  }
  return area(rest);
}

/**
 * The rectangle around one and all set pixels that are connected with it, by edges or corners.
 *
 * @param {Mask} mask @param {Rect} rect  inside the mask @returns {Rect}
 */
export function reach({ width, height, data }, rect) {
  let [left, top, right, bottom] = rect;
  const seen = new Uint8Array(data.length);
  const waiting = [];
  const visit = (x0, y0, x1, y1) => {
    for (let y = Math.max(0, y0); y < Math.min(height, y1); y += 1) {
      for (let x = Math.max(0, x0), i = y * width + x; x < Math.min(width, x1); x += 1, i += 1) {
        if (!data[i] || seen[i]) continue;
        seen[i] = 1;
        waiting.push(i);
        left = Math.min(left, x);
        right = Math.max(right, x + 1);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y + 1);
      }
    }
  };
  visit(...rect);
  while (waiting.length) {
    const i = waiting.pop();
    const [x, y] = [i % width, Math.floor(i / width)];
    visit(x - 1, y - 1, x + 2, y + 2);
  }
  return [left, top, right, bottom];
}
