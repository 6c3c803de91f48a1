/** Draws shapes that come as JSON on standard input, and writes the masks' runs: for comparison with other rasterisers. */

import { readFileSync } from "node:fs";
import { capsule, emptyMask, polygon } from "../../../lightning_samseg/annotate/page/mask.js";
import { decode, encode } from "../../../lightning_samseg/annotate/page/rle.js";

const answers = JSON.parse(readFileSync(0, "utf8")).map(({ size, ends, radius, points, runs }) => {
  if (runs) return encode(decode(runs));
  const mask = emptyMask(size[1], size[0]);
  const rect = ends ? capsule(mask, ...ends, radius, 1) : polygon(mask, points, 1);
  return { ...encode(mask), rect };
});
process.stdout.write(JSON.stringify(answers));
