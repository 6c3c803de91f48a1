import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, takeToken } from "../../../lightning_samseg/annotate/page/api.js";
import { Keys, TABLE, nameOf } from "../../../lightning_samseg/annotate/page/keys.js";
import { lookUp, paint } from "../../../lightning_samseg/annotate/page/paint.js";
import { range, readPixels, tone } from "../../../lightning_samseg/annotate/page/tones.js";

test("events, whatever the pieces they come in", () => {
  const text = ': hello\n\nid: 7\nevent: learned\ndata: {"learned":\ndata: 3}\n\n:\n\nevent: note\r\ndata: {}\r\n\r\n';
  for (let size = 1; size < text.length; size += 1) {
    const parser = new EventParser();
    const events = [];
    for (let i = 0; i < text.length; i += size) events.push(...parser.push(text.slice(i, i + size)));
    assert.deepEqual(events, [
      { id: "7", name: "learned", data: '{"learned":\n3}' },
      { id: "", name: "note", data: "{}" },
    ]);
  }
});

test("the token goes from the address into the tab's store", () => {
  const kept = new Map();
  const storage = { setItem: (key, value) => kept.set(key, value), getItem: (key) => kept.get(key) ?? null };
  let shown;
  globalThis.window = { history: { replaceState: (_state, _title, address) => (shown = address) } };
  assert.equal(takeToken({ hash: "", pathname: "/p/", search: "" }, storage), null);
  assert.equal(takeToken({ hash: "#t=a%2Bb", pathname: "/p/", search: "?x" }, storage), "a+b");
  assert.equal(shown, "/p/?x");
  assert.equal(takeToken({ hash: "", pathname: "/p/", search: "" }, storage), "a+b");
  delete globalThis.window;
});

test("no key does two things, and each can be changed", () => {
  const all = TABLE.flatMap(([, , keys]) => keys);
  assert.equal(new Set(all).size, all.length);
  const stored = new Map();
  const storage = { getItem: (k) => stored.get(k) ?? null, setItem: (k, v) => stored.set(k, v), removeItem: (k) => stored.delete(k) };
  const keys = new Keys(storage);
  const press = (code, more = {}) => ({ code, key: "", ctrlKey: false, metaKey: false, shiftKey: false, ...more });
  assert.equal(keys.does(press("KeyD")), "brush");
  keys.rebind("lasso", "KeyD");
  for (const each of [keys, new Keys(storage)]) {
    assert.equal(each.does(press("KeyD")), "lasso");
    assert.deepEqual(each.bound.get("brush"), []);
  }
  keys.reset();
  assert.equal(new Keys(storage).does(press("KeyD")), "brush");
  // The key in Z's place types Y on a German keyboard: Ctrl goes by the letter, the rest by the place.
  assert.equal(nameOf(press("KeyZ", { key: "y", ctrlKey: true })), "Ctrl+KeyY");
  assert.equal(nameOf(press("KeyZ", { key: "y" })), "KeyZ");
  assert.equal(keys.does(press("Minus", { key: "?", shiftKey: true })), "help");
  stored.set("samseg-keys", "{broken");
  assert.equal(new Keys(storage).does(press("KeyD")), "brush");
});

/** A view without a screen. */
function view(width, height, zoom, quarters, panX = 0, panY = 0) {
  const [c, s] = [[1, 0], [0, 1], [-1, 0], [0, -1]][quarters];
  return {
    width, height, quarters,
    toImage: (sx, sy) => {
      const [dx, dy] = [(sx - panX) / zoom, (sy - panY) / zoom];
      return [c * dx + s * dy, c * dy - s * dx];
    },
  };
}

test("each pixel of the screen looks up the image pixel under its centre, at any zoom, turn and density", () => {
  const [width, height] = [7, 5];
  for (const quarters of [0, 1, 2, 3]) {
    for (const zoom of [0.37, 1, 5]) {
      for (const dpr of [1, 1.5, 2]) {
        const at = view(width, height, zoom, quarters, 11.25, 13.5);
        const rect = [-3, -4, 70, 60];
        const { columns, rows } = lookUp(at, dpr, rect);
        for (let y = rect[1]; y < rect[3]; y += 1) {
          for (let x = rect[0]; x < rect[2]; x += 1) {
            const [ix, iy] = at.toImage((x + 0.5) / dpr, (y + 0.5) / dpr).map(Math.floor);
            const inside = ix >= 0 && iy >= 0 && ix < width && iy < height;
            const [column, row] = [columns[x - rect[0]], rows[y - rect[1]]];
            assert.equal(column >= 0 && row >= 0 ? column + row : -1, inside ? iy * width + ix : -1);
          }
        }
      }
    }
  }
});

test("a piece is painted as the whole is", () => {
  const [width, height, line] = [16, 12, 1];
  const mask = Uint8Array.from({ length: width * height }, (_, i) => (i * 7919) % 5 < 2);
  const sam = Uint8Array.from({ length: width * height }, (_, i) => (i * 104729) % 7 < 3);
  const at = view(width, height, 3, 1, 40);
  const draw = ([x0, y0, x1, y1]) => {
    const out = new Uint32Array((x1 - x0) * (y1 - y0));
    paint(mask, sam, lookUp(at, 1, [x0 - line, y0 - line, x1 + line, y1 + line]), line, out, x0 + y0);
    return out;
  };
  const all = draw([0, 0, 50, 50]);
  assert.ok(new Set(all).size > 3);
  const piece = draw([11, 7, 31, 40]);
  for (let y = 7; y < 40; y += 1) {
    for (let x = 11; x < 31; x += 1) assert.equal(piece[(y - 7) * 20 + x - 11], all[y * 50 + x]);
  }
});

test("window and level of raw values", () => {
  const read = (array, dtype, channels = 1) => readPixels({ height: 1, width: array.length / channels, channels, dtype, window: [0, 1], buffer: array.buffer });
  const grey = (pixels, window) => {
    const out = new Uint32Array(pixels.width);
    tone(pixels, window, 0, 1, out);
    return [...out].map((value) => value & 255);
  };
  assert.deepEqual(grey(read(Uint16Array.from([0, 1000, 1500, 2000, 65535]), "uint16"), [1000, 2000]), [0, 0, 127, 255, 255]);
  assert.deepEqual(grey(read(Int16Array.from([-1024, 40, 240, 3000]), "int16"), [-160, 240]), [0, 127, 255, 255]);
  assert.deepEqual(grey(read(Float32Array.from([-1, 0, 0.5, 1, NaN]), "float32"), [0, 1]), [0, 0, 127, 255, 0]);
  const out = new Uint32Array(1);
  tone(read(Uint8Array.from([1, 2, 3]), "uint8", 3), [0, 255], 0, 1, out);
  assert.equal(out[0], 0xff030201);
  assert.deepEqual(range(read(Float32Array.from([NaN, -Infinity, 2, -3]), "float32")), [-3, 2]);
  assert.throws(() => readPixels({ height: 2, width: 2, channels: 1, dtype: "uint8", buffer: new ArrayBuffer(3) }), /3 values/);
});
