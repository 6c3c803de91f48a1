/**
 * What the pointer does. A tool gets places in image pixels; it draws into the draft, or asks for a prompt.
 *
 * @typedef {{x: number, y: number, sx: number, sy: number, ctrl: boolean, erase: boolean}} Place
 *   x, y: of the image; sx, sy: of the stage, CSS pixels; erase: Alt, right button, or a pen's other end
 * @typedef {object} Host  what the tools work on, see Session
 */

import { capsule, clip, polygon, unite } from "./mask.js";

const NEAR = 9; // CSS pixels: closes a polygon; less than a third of it is a click and no drag

class Brush {
  /** @param {Host} host @param {0|1} value @param {{size: number}} settings */
  constructor(host, value, settings) {
    Object.assign(this, { host, value, settings });
  }

  down(place) {
    this.last = null;
    this.rect = null;
    this.ink = place.erase ? 1 - this.value : this.value;
    this.move(place);
  }

  move({ x, y }) {
    const here = [x, y];
    const rect = capsule(this.host.draft.mask, this.last ?? here, here, this.settings.size / 2, this.ink);
    this.last = here;
    this.rect = unite(this.rect, rect);
    this.host.view.redrawMasks(rect);
  }

  up() {
    this.host.commit("stroke", this.rect);
  }

  cancel() {
    this.host.draft.cancel(this.rect);
    this.host.view.redrawMasks(this.rect);
  }

  draw(context, place) {
    if (!place) return;
    const radius = Math.max(1, (this.settings.size / 2) * this.host.view.zoom);
    ring(context, place.sx, place.sy, radius, place.erase ? 1 - this.value : this.value);
  }
}

function ring(context, x, y, radius, value) {
  for (const [width, colour] of [
    [3, "rgb(0 0 0 / 55%)"],
    [1.25, value ? "#8ce0f5" : "#ff9d8a"],
  ]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}

class Box {
  constructor(host) {
    this.host = host;
  }

  down(place) {
    if (!this.stays) this.first = place;
    this.last = place;
    this.opening = !this.stays;
    this.stays = false;
  }

  move(place) {
    this.last = place;
    this.host.view.redrawMarks();
  }

  /** Follows the pointer after a click, too: a corner may be set by a click and the other by a second one. */
  hover(place) {
    if (this.stays) this.move(place);
  }

  up(place) {
    this.last = place;
    if (this.opening && Math.hypot(place.sx - this.first.sx, place.sy - this.first.sy) < NEAR / 3) {
      this.stays = true;
      return;
    }
    const box = this.box();
    this.cancel();
    if (!box || box[2] - box[0] < 2 || box[3] - box[1] < 2) {
      this.host.say("This box is smaller than 2 x 2 pixels of the image. Zoom in, or drag a larger one.");
    } else this.host.addPrompt({ box });
  }

  cancel() {
    this.first = this.last = null;
    this.stays = false;
    this.host.view.redrawMarks();
  }

  /** Whole pixels, half open: what is drawn is what is sent. */
  box() {
    const { first, last } = this;
    return clip(this.host.draft.mask, [
      Math.floor(Math.min(first.x, last.x)),
      Math.floor(Math.min(first.y, last.y)),
      Math.ceil(Math.max(first.x, last.x)),
      Math.ceil(Math.max(first.y, last.y)),
    ]);
  }

  draw(context, place) {
    const { view } = this.host;
    if (this.first && this.last) {
      const box = this.box();
      if (box) view.frameBox(context, box, "#ffffff", [5, 4], `${box[2] - box[0]} x ${box[3] - box[1]}`);
    } else if (place) crosshair(context, place, view);
  }
}

function crosshair(context, { sx, sy }, view) {
  context.strokeStyle = "rgb(255 255 255 / 35%)";
  context.lineWidth = 1;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [
    [0, sy, sx - 8, sy],
    [sx + 8, sy, view.screenWidth, sy],
    [sx, 0, sx, sy - 8],
    [sx, sy + 8, sx, view.screenHeight],
  ]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

class Point {
  constructor(host) {
    this.host = host;
  }

  down() {}

  move() {}

  up({ x, y }) {
    const { width, height } = this.host.draft.mask;
    const point = [Math.floor(x), Math.floor(y)];
    if (point[0] >= 0 && point[1] >= 0 && point[0] < width && point[1] < height) this.host.addPrompt({ point });
  }

  cancel() {}

  draw(context, place) {
    if (place) crosshair(context, place, this.host.view);
  }
}

/** A closed line: drawn by hand, or corner by corner. */
class Outline {
  constructor(host, cornerwise) {
    Object.assign(this, { host, cornerwise, points: [] });
  }

  /** Corners are set and the line is not closed yet. */
  get open() {
    return this.points.length > 0;
  }

  down(place) {
    if (!this.open) {
      this.value = place.erase ? 0 : 1;
      this.corners = this.cornerwise || place.ctrl;
    }
    if (this.corners && this.points.length > 2 && this.nearStart(place)) {
      this.close();
      return;
    }
    this.points.push([place.x, place.y]);
    this.host.view.redrawMarks();
  }

  nearStart({ sx, sy }) {
    const [x, y] = this.host.view.toScreen(...this.points[0]);
    return Math.hypot(sx - x, sy - y) < NEAR;
  }

  move(place) {
    if (this.open && !this.corners) this.points.push([place.x, place.y]);
    this.host.view.redrawMarks();
  }

  up() {
    if (!this.corners && this.open) this.close();
  }

  back() {
    this.points.pop();
    this.host.view.redrawMarks();
  }

  close() {
    const rect = polygon(this.host.draft.mask, this.points, this.value);
    this.points = [];
    this.host.view.redrawMasks(rect);
    this.host.view.redrawMarks();
    this.host.commit("stroke", rect);
  }

  cancel() {
    this.points = [];
    this.host.view.redrawMarks();
  }

  draw(context, place) {
    if (!this.open) {
      if (place) ring(context, place.sx, place.sy, 3, place.erase ? 0 : 1);
      return;
    }
    const path = this.points.map(([x, y]) => this.host.view.toScreen(x, y));
    if (this.corners && place) path.push([place.sx, place.sy]);
    context.beginPath();
    path.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.lineWidth = 1.5;
    context.strokeStyle = this.value ? "#8ce0f5" : "#ff9d8a";
    context.stroke();
    if (this.corners) {
      const [x, y] = path[0];
      ring(context, x, y, this.points.length > 2 && place && this.nearStart(place) ? 7 : 4, this.value);
    }
  }
}

class Pan {
  constructor(host) {
    this.host = host;
  }

  down(place) {
    this.last = place;
  }

  move(place) {
    this.host.view.pan(place.sx - this.last.sx, place.sy - this.last.sy);
    this.last = place;
  }

  up() {}

  cancel() {}

  draw() {}
}

/** Window and level, as radiology viewers have them: left and right the width, up and down the level. */
class Levels {
  constructor(host) {
    this.host = host;
  }

  down(place) {
    this.start = place;
    this.window = this.host.view.window;
  }

  move(place) {
    const [low, high] = this.window;
    const width = (high - low) * 1.006 ** (place.sx - this.start.sx);
    const level = (low + high) / 2 + ((place.sy - this.start.sy) / 400) * (high - low);
    this.host.setWindow([level - width / 2, level + width / 2]);
  }

  up() {}

  cancel() {}

  draw() {}
}

export class Tools {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.settings = { size: 24 };
    this.all = {
      box: new Box(host),
      point: new Point(host),
      brush: new Brush(host, 1, this.settings),
      eraser: new Brush(host, 0, this.settings),
      lasso: new Outline(host, false),
      polygon: new Outline(host, true),
      levels: new Levels(host),
      pan: new Pan(host),
    };
    this.name = "box";
    /** The tool that has the pointer down, if any. */
    this.active = null;
    /** @type {Place|null} */
    this.place = null;
    /** Space is down: everything pans. */
    this.panning = false;
  }

  get tool() {
    return this.all[this.panning ? "pan" : this.name];
  }

  /** A line or a box waits for its next corner. */
  get open() {
    return Boolean(this.tool.open || this.tool.stays);
  }

  /** Whether the mask is being changed right now. */
  get busy() {
    return this.active !== null && this.active !== this.all.pan && this.active !== this.all.levels;
  }

  choose(name) {
    this.cancel();
    this.name = name;
    this.host.view.redrawMarks();
  }

  resize(factor) {
    const { size } = this.settings;
    const next = Math.round(size * factor);
    this.settings.size = Math.max(1, Math.min(2000, next === size ? size + Math.sign(factor - 1) : next));
    this.host.view.redrawMarks();
  }

  /** @param {Place} place @param {boolean} [pan]  the middle button */
  down(place, pan = false) {
    this.place = place;
    const tool = pan ? this.all.pan : this.tool;
    const changes = tool !== this.all.pan && tool !== this.all.levels;
    if (changes && !this.host.editable()) return;
    this.active = tool;
    tool.down(place);
  }

  /** @param {Place} place */
  move(place) {
    this.place = place;
    if (this.active) this.active.move(place);
    else this.tool.hover?.(place);
    this.host.view.redrawMarks();
  }

  /** @param {Place} place */
  up(place) {
    const { active } = this;
    this.active = null;
    active?.up(place);
    this.host.idle();
  }

  leave() {
    if (!this.active) this.place = null;
    this.host.view.redrawMarks();
  }

  /** @returns {boolean} whether there was something to cancel */
  cancel() {
    const was = Boolean(this.active) || this.open;
    const { active } = this;
    this.active = null;
    if (was) (active ?? this.tool).cancel();
    if (active) this.host.idle();
    return was;
  }

  draw(context) {
    (this.active ?? this.tool).draw(context, this.place);
  }
}
