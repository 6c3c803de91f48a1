/** Pointer, wheel and keyboard cursor: from events of the stage to places for the tools. */

const ERASER = 32; // of PointerEvent.buttons: a pen's other end

/** @param {HTMLElement} stage @param {import("./view.js").View} view @param {import("./tools.js").Tools} tools */
export function listen(stage, view, tools) {
  /** Touching fingers, by pointer; two of them move and zoom the image. */
  const fingers = new Map();
  let owner = null;

  const place = (event) => {
    const frame = stage.getBoundingClientRect();
    const [sx, sy] = [event.clientX - frame.left, event.clientY - frame.top];
    const [x, y] = view.toImage(sx, sy);
    const erase = event.altKey || Boolean(event.buttons & (2 | ERASER)) || event.button === 2;
    return { x, y, sx, sy, ctrl: event.ctrlKey || event.metaKey, erase };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 2 && event.button !== 5) return;
    if (event.target !== stage && !(event.target instanceof HTMLCanvasElement)) return; // a button of the banner
    stage.focus({ preventScroll: true });
    event.preventDefault();
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) tools.cancel();
      if (fingers.size > 1) return;
    }
    if (owner !== null) return;
    owner = event.pointerId;
    stage.setPointerCapture(event.pointerId);
    tools.down(place(event), event.button === 1);
  });

  stage.addEventListener("pointermove", (event) => {
    if (fingers.size === 2 && fingers.has(event.pointerId)) {
      pinch(view, stage, fingers, event);
      return;
    }
    if (owner !== null && owner !== event.pointerId) return;
    // Between two frames a fast hand makes many steps; they exist in secure contexts only.
    const steps = (tools.active && event.getCoalescedEvents?.()) || [];
    for (const step of steps.length ? steps : [event]) tools.move(place(step));
  });

  const release = (event) => {
    fingers.delete(event.pointerId);
    if (owner !== event.pointerId) return;
    owner = null;
    if (event.type === "pointercancel") tools.cancel();
    else tools.up(place(event));
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerleave", () => tools.leave());
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dblclick", () => {
    if (tools.tool.open) tools.tool.close();
  });
  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const amount = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
      if (event.ctrlKey || event.metaKey) tools.resize(amount > 0 ? 1 / 1.15 : 1.15);
      else if (event.shiftKey) view.pan(-event.deltaY - event.deltaX, 0);
      else {
        const { sx, sy } = place(event);
        view.zoomAt(0.9985 ** amount, sx, sy);
      }
    },
    { passive: false },
  );
}

function pinch(view, stage, fingers, event) {
  const frame = stage.getBoundingClientRect();
  const other = [...fingers.entries()].find(([id]) => id !== event.pointerId)[1];
  const old = fingers.get(event.pointerId);
  const distance = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  const middle = (a, b) => [(a.clientX + b.clientX) / 2 - frame.left, (a.clientY + b.clientY) / 2 - frame.top];
  const [from, to] = [middle(old, other), middle(event, other)];
  view.pan(to[0] - from[0], to[1] - from[1]);
  view.zoomAt(distance(event, other) / Math.max(1, distance(old, other)), ...to);
  fingers.set(event.pointerId, event);
}

/** A cursor that the keyboard moves, for those who cannot use a pointer, and for single pixels. */
export class KeyboardCursor {
  /** @param {import("./view.js").View} view @param {import("./tools.js").Tools} tools */
  constructor(view, tools) {
    Object.assign(this, { view, tools, x: null, y: null, down: false });
  }

  /** Forget it: another image. */
  reset() {
    this.x = this.y = null;
    this.down = false;
  }

  /** Move by pixels of the image, along the screen's directions. */
  move(dx, dy) {
    const { view, tools } = this;
    const turn = (4 - view.quarters) % 4;
    for (let i = 0; i < turn; i += 1) [dx, dy] = [-dy, dx];
    this.#start();
    this.x = Math.max(0, Math.min(view.width - 0.5, this.x + dx));
    this.y = Math.max(0, Math.min(view.height - 0.5, this.y + dy));
    tools.move(this.#place());
  }

  /** Press or release, as a pointer's button. */
  press() {
    this.#start();
    this.down = !this.down;
    if (this.down) {
      this.tools.down(this.#place());
      this.down = this.tools.active !== null;
      if (this.tools.active?.cornerwise || this.tools.active === this.tools.all.point) this.press();
    } else this.tools.up(this.#place());
  }

  #start() {
    const { place } = this.tools;
    const { width, height } = this.view;
    this.x = Math.floor(place ? place.x : (this.x ?? width / 2)) + 0.5;
    this.y = Math.floor(place ? place.y : (this.y ?? height / 2)) + 0.5;
  }

  #place() {
    const [sx, sy] = this.view.toScreen(this.x, this.y);
    return { x: this.x, y: this.y, sx, sy, ctrl: false, erase: false };
  }
}
