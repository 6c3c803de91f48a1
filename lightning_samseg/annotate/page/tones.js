/**
 * From raw values of 8, 16 or 32 bits to what the screen shows: window and level, here and not in the server, so that
 * no depth is lost and turning them is instant.
 *
 * @typedef {{height: number, width: number, channels: number, dtype: string, window: [number, number],
 *   values: ArrayLike<number>}} Pixels
 */

const ARRAYS = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  float32: Float32Array,
  float64: Float64Array,
};

/** Type the bytes that the server has sent. @returns {Pixels} */
export function readPixels({ buffer, ...rest }) {
  const { height, width, channels, dtype } = rest;
  if (!(dtype in ARRAYS)) throw new Error(`Values of type ${dtype} cannot be shown.`);
  const values = new ARRAYS[dtype](buffer); // little endian, as is every machine that a browser runs on
  if (values.length !== height * width * channels) {
    throw new Error(`${values.length} values came for ${height} x ${width} x ${channels}.`);
  }
  return { ...rest, values };
}

/**
 * Make 32-bit colours of some rows.
 *
 * @param {Pixels} pixels @param {[number, number]} window  black and white @param {number} from @param {number} to
 * @param {Uint32Array} out  of the rows alone
 */
export function tone(pixels, [low, high], from, to, out) {
  const { values, width, channels } = pixels;
  const scale = 255.999 / Math.max(high - low, 1e-12);
  const grey = (value) => Math.max(0, Math.min(255, Math.floor((value - low) * scale)));
  const table = lookUp(pixels.dtype, grey);
  const first = from * width;
  const count = (to - from) * width;
  if (channels === 3) {
    for (let i = 0, j = first * 3; i < count; i += 1, j += 3) {
      out[i] = 0xff000000 | (table[values[j + 2]] << 16) | (table[values[j + 1]] << 8) | table[values[j]];
    }
  } else if (table) {
    const offset = pixels.dtype === "int16" ? 32768 : 0;
    for (let i = 0; i < count; i += 1) out[i] = 0xff000000 | (table[values[first + i] + offset] * 0x010101);
  } else {
    for (let i = 0; i < count; i += 1) out[i] = 0xff000000 | (grey(values[first + i]) * 0x010101);
  }
}

function lookUp(dtype, grey) {
  if (dtype === "uint8") return Uint8Array.from({ length: 256 }, (_, i) => grey(i));
  if (dtype === "uint16") return Uint8Array.from({ length: 65536 }, (_, i) => grey(i));
  if (dtype === "int16") return Uint8Array.from({ length: 65536 }, (_, i) => grey(i - 32768));
  return null;
}

/** Smallest and largest finite value, where the sliders end. @param {Pixels} pixels */
export function range({ values }) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i];
    if (value < low && value > -Infinity) low = value;
    if (value > high && value < Infinity) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}
