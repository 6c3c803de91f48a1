/** Where the image lies on the screen, and the layers that show it: picture, masks, marks. */

import { lookUp, paint } from "./paint.js";
import { tone } from "./tones.js";

const TURNS = [
  [1, 0],
  [0, 1],
  [-1, 0],
  [0, -1],
];
const NEAREST = 64; // CSS pixels an image pixel
const ROWS_AT_ONCE = 2 ** 21; // pixels that are toned in one go

export class View {
  /** @param {HTMLElement} stage  holds the three canvases; its size is the screen's */
  constructor(stage) {
    this.stage = stage;
    [this.picture, this.masks, this.marks] = stage.querySelectorAll("canvas");
    this.width = 0;
    this.height = 0;
    /** CSS pixels an image pixel. */
    this.zoom = 1;
    this.panX = 0;
    this.panY = 0;
    /** Quarter turns, clockwise. */
    this.quarters = 0;
    this.hidden = false;
    this.mask = null;
    this.sam = null;
    /** Draws boxes, the brush and so on in CSS pixels; set by the owner. */
    this.drawMarks = (_context) => {};
    this.source = document.createElement("canvas");
    this.wanted = { picture: false, masks: null, marks: false };
    this.requested = 0;
    /** Duration of each frame's work, ms; newest last. */
    this.frames = [];
    new ResizeObserver(() => this.resize()).observe(stage);
    this.resize();
  }

  get dpr() {
    return window.devicePixelRatio || 1;
  }

  resize() {
    const { clientWidth, clientHeight } = this.stage;
    const moved = [
      (clientWidth - (this.screenWidth ?? clientWidth)) / 2,
      (clientHeight - (this.screenHeight ?? clientHeight)) / 2,
    ];
    this.screenWidth = clientWidth;
    this.screenHeight = clientHeight;
    for (const canvas of [this.picture, this.masks, this.marks]) {
      canvas.width = Math.max(1, Math.round(clientWidth * this.dpr));
      canvas.height = Math.max(1, Math.round(clientHeight * this.dpr));
    }
    this.panX += moved[0];
    this.panY += moved[1];
    this.redraw();
  }

  /** @param {import("./tones.js").Pixels} pixels */
  show(pixels, window) {
    this.pixels = pixels;
    this.width = pixels.width;
    this.height = pixels.height;
    this.source.width = pixels.width;
    this.source.height = pixels.height;
    this.mask = null;
    this.sam = null;
    this.setWindow(window);
  }

  /** Tone the rows that can be seen first; the rest follows frame by frame. */
  setWindow(window) {
    this.window = window;
    const [[, top], [, bottom]] = [this.toImage(0, 0), this.toImage(this.screenWidth, this.screenHeight)];
    const clamp = (y) => Math.max(0, Math.min(this.height, y));
    const [from, to] = [clamp(Math.floor(Math.min(top, bottom))), clamp(Math.ceil(Math.max(top, bottom)))];
    const parts =
      this.quarters % 2
        ? [[0, this.height]]
        : [
            [from, to],
            [0, from],
            [to, this.height],
          ];
    const step = Math.max(1, Math.floor(ROWS_AT_ONCE / Math.max(1, this.width)));
    this.untoned = parts.flatMap(([a, b]) => {
      const pieces = [];
      for (let y = a; y < b; y += step) pieces.push([y, Math.min(b, y + step)]);
      return pieces;
    });
    this.redraw();
  }

  /** The whole image, in the middle. */
  fit() {
    const margin = 24;
    const [w, h] = this.quarters % 2 ? [this.height, this.width] : [this.width, this.height];
    const room = [Math.max(40, this.screenWidth - margin), Math.max(40, this.screenHeight - margin)];
    this.zoom = Math.min(room[0] / w, room[1] / h, NEAREST);
    this.centre(this.width / 2, this.height / 2);
  }

  /** Bring a place of the image to the middle of the screen. */
  centre(x, y) {
    [this.panX, this.panY] = [0, 0];
    const [sx, sy] = this.toScreen(x, y);
    this.panX = Math.round(this.screenWidth / 2 - sx);
    this.panY = Math.round(this.screenHeight / 2 - sy);
    this.redraw();
  }

  /** Zoom so that what is at a place of the screen stays there. */
  zoomAt(factor, sx = this.screenWidth / 2, sy = this.screenHeight / 2) {
    const [x, y] = this.toImage(sx, sy);
    const least = Math.min(this.screenWidth / this.width, this.screenHeight / this.height, 1) / 4;
    this.zoom = Math.max(least, Math.min(NEAREST, this.zoom * factor));
    const [nowX, nowY] = this.toScreen(x, y);
    this.pan(sx - nowX, sy - nowY);
  }

  pan(dx, dy) {
    this.panX += dx;
    this.panY += dy;
    this.redraw();
  }

  turn() {
    const [x, y] = this.toImage(this.screenWidth / 2, this.screenHeight / 2);
    this.quarters = (this.quarters + 1) % 4;
    this.centre(x, y);
  }

  toImage(sx, sy) {
    const [c, s] = TURNS[this.quarters];
    const dx = (sx - this.panX) / this.zoom;
    const dy = (sy - this.panY) / this.zoom;
    return [c * dx + s * dy, c * dy - s * dx];
  }

  toScreen(x, y) {
    const [c, s] = TURNS[this.quarters];
    return [(c * x - s * y) * this.zoom + this.panX, (s * x + c * y) * this.zoom + this.panY];
  }

  /** Draw the frame of a box of the image, with a label at its upper left. */
  frameBox(context, [x0, y0, x1, y1], colour, dash = [], label = "") {
    const [[ax, ay], [bx, by]] = [this.toScreen(x0, y0), this.toScreen(x1, y1)];
    const [left, top] = [Math.min(ax, bx), Math.min(ay, by)];
    context.lineWidth = 3;
    context.setLineDash([]);
    context.strokeStyle = "rgb(0 0 0 / 45%)";
    context.strokeRect(left, top, Math.abs(bx - ax), Math.abs(by - ay));
    context.lineWidth = 1.5;
    context.setLineDash(dash);
    context.strokeStyle = colour;
    context.strokeRect(left, top, Math.abs(bx - ax), Math.abs(by - ay));
    context.setLineDash([]);
    if (label) this.tag(context, left, top, label, colour);
  }

  /** A small label above a place of the screen. */
  tag(context, x, y, text, colour) {
    context.font = "600 11px system-ui, sans-serif";
    const width = context.measureText(text).width + 10;
    const top = Math.max(0, y - 19);
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect(x - 0.5, top, width, 17, 4);
    context.fill();
    context.fillStyle = "#10161c";
    context.textBaseline = "middle";
    context.fillText(text, x + 4.5, top + 9);
  }

  redraw() {
    this.wanted.picture = true;
    this.wanted.marks = true;
    this.wanted.masks = "all";
    this.#request();
  }

  redrawMarks() {
    this.wanted.marks = true;
    this.#request();
  }

  /** Draw the masks anew where the image has changed. @param {[number, number, number, number]|null} [rect] */
  redrawMasks(rect) {
    if (rect === null) return;
    this.wanted.marks = true;
    if (!rect) this.wanted.masks = "all";
    else if (this.wanted.masks !== "all") (this.wanted.masks ??= []).push(rect);
    this.#request();
  }

  #request() {
    this.requested ||= requestAnimationFrame(() => this.#frame());
  }

  #frame() {
    const start = performance.now();
    this.requested = 0;
    const wanted = this.wanted;
    this.wanted = { picture: false, masks: null, marks: false };
    if (!this.width) {
      for (const canvas of [this.picture, this.masks, this.marks]) {
        canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      }
      return;
    }
    if (wanted.picture || this.untoned.length) this.#drawPicture();
    if (wanted.masks === "all") this.#drawMasks([0, 0, this.masks.width, this.masks.height]);
    else for (const rect of wanted.masks ?? []) this.#drawMasks(this.#onScreen(rect));
    if (wanted.marks) {
      const context = this.marks.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, this.marks.width, this.marks.height);
      context.scale(this.dpr, this.dpr);
      this.drawMarks(context);
    }
    this.frames.push(performance.now() - start);
    if (this.frames.length > 500) this.frames.shift();
  }

  #drawPicture() {
    const piece = this.untoned.shift();
    if (piece) {
      const [from, to] = piece;
      const image = new ImageData(this.width, to - from);
      tone(this.pixels, this.window, from, to, new Uint32Array(image.data.buffer));
      this.source.getContext("2d").putImageData(image, 0, from);
      if (this.untoned.length) this.#request();
    }
    const context = this.picture.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.picture.width, this.picture.height);
    const [c, s] = TURNS[this.quarters];
    const scale = this.zoom * this.dpr;
    context.setTransform(c * scale, s * scale, -s * scale, c * scale, this.panX * this.dpr, this.panY * this.dpr);
    context.imageSmoothingEnabled = scale < 1; // larger: the pixels themselves
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.source, 0, 0);
  }

  /** A rectangle of the image in device pixels, with room for outlines. */
  #onScreen([x0, y0, x1, y1]) {
    const corners = [this.toScreen(x0, y0), this.toScreen(x1, y1)];
    const [xs, ys] = [0, 1].map((axis) => corners.map((corner) => corner[axis] * this.dpr));
    const room = this.#line + 1;
    return [
      Math.floor(Math.min(...xs)) - room,
      Math.floor(Math.min(...ys)) - room,
      Math.ceil(Math.max(...xs)) + room,
      Math.ceil(Math.max(...ys)) + room,
    ];
  }

  get #line() {
    return Math.max(1, Math.round(1.4 * this.dpr));
  }

  #drawMasks(rect) {
    const context = this.masks.getContext("2d");
    const image = this.#onScreen([0, 0, this.width, this.height]);
    const all = rect[0] === 0 && rect[2] === this.masks.width && rect[1] === 0 && rect[3] === this.masks.height;
    if (all) context.clearRect(0, 0, this.masks.width, this.masks.height);
    const x0 = Math.max(0, rect[0], image[0]);
    const y0 = Math.max(0, rect[1], image[1]);
    const x1 = Math.min(this.masks.width, rect[2], image[2]);
    const y1 = Math.min(this.masks.height, rect[3], image[3]);
    if (x0 >= x1 || y0 >= y1) return;
    const piece = new ImageData(x1 - x0, y1 - y0);
    if (this.mask && !this.hidden) {
      const line = this.#line;
      const places = lookUp(this, this.dpr, [x0 - line, y0 - line, x1 + line, y1 + line]);
      paint(this.mask, this.sam, places, line, new Uint32Array(piece.data.buffer), x0 + y0);
    }
    context.putImageData(piece, x0, y0);
  }
}
