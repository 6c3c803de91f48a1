/**
 * Which key does what. By position (`event.code`), so that every layout has them in the same place; with Ctrl by letter,
 * as everywhere. None inside of text fields. Tab stays the browser's: without it nobody could leave the image by keyboard. The help sheet lists this table, and lets a key be changed.
 */

/** @type {[group: string, does: string, keys: string[], label: string][]} */
export const TABLE = [
  ["Tools", "box", ["KeyB"], "Box: drag it around an object, or click two corners"],
  ["Tools", "point", ["KeyP"], "Point: click on an object"],
  ["Tools", "brush", ["KeyD"], "Brush (Alt or right button: erase)"],
  ["Tools", "eraser", ["KeyE"], "Eraser"],
  ["Tools", "lasso", ["KeyL"], "Lasso (Alt: cut out; Ctrl+click: corner by corner)"],
  ["Tools", "polygon", ["KeyG"], "Polygon: corner by corner; Enter closes it, Backspace takes one back"],
  ["Tools", "levels", ["KeyW"], "Window: drag left and right for width, up and down for level"],
  ["Tools", "smaller", ["BracketLeft"], "Smaller brush (or Ctrl+wheel)"],
  ["Tools", "larger", ["BracketRight"], "Larger brush"],
  ["Draft", "fused", ["Digit1"], "Start from the fused mask"],
  ["Draft", "sam", ["Digit2"], "Start from SAM's mask"],
  ["Draft", "empty", ["Digit3"], "Start from an empty mask"],
  ["Draft", "remove", ["Delete"], "Remove the chosen object, or the last"],
  ["Draft", "enlarge", ["KeyM"], "Larger box: take in what is painted across its border"],
  ["Draft", "choose", ["KeyN"], "Choose the next object"],
  ["Draft", "undo", ["Ctrl+KeyZ"], "Undo"],
  ["Draft", "redo", ["Ctrl+Shift+KeyZ", "Ctrl+KeyY"], "Redo"],
  ["Image", "accept", ["Enter", "NumpadEnter"], "Accept, and go to the next image"],
  ["Image", "nothing", ["Digit0"], "Nothing here"],
  ["Image", "skip", ["KeyS"], "Skip, with a reason"],
  ["Image", "reopen", ["KeyO"], "Reopen an accepted or skipped image"],
  ["Image", "next", ["PageDown"], "Next image or slice"],
  ["Image", "previous", ["PageUp"], "Previous image or slice"],
  ["View", "blink", ["KeyV"], "Hide the masks while it is held"],
  ["View", "auto", ["KeyA"], "Window as it was at first"],
  ["View", "turn", ["KeyR"], "Rotate the view by a quarter; masks stay as they are"],
  ["View", "fit", ["KeyF", "Home"], "The whole image"],
  ["View", "actual", ["KeyZ"], "One image pixel a pixel, and back"],
  ["View", "zoomIn", ["Equal", "NumpadAdd"], "Zoom in (or wheel)"],
  ["View", "zoomOut", ["Minus", "NumpadSubtract"], "Zoom out"],
  ["View", "pan", ["Space"], "Hold and drag: move the image (or the middle button)"],
  ["View", "left", ["ArrowLeft"], "Move the image"],
  ["View", "right", ["ArrowRight"], "Move the image"],
  ["View", "up", ["ArrowUp"], "Move the image"],
  ["View", "down", ["ArrowDown"], "Move the image"],
  ["Without a pointer", "cursorLeft", ["Shift+ArrowLeft"], "Move the cursor by a pixel"],
  ["Without a pointer", "cursorRight", ["Shift+ArrowRight"], "Move the cursor by a pixel"],
  ["Without a pointer", "cursorUp", ["Shift+ArrowUp"], "Move the cursor by a pixel"],
  ["Without a pointer", "cursorDown", ["Shift+ArrowDown"], "Move the cursor by a pixel"],
  ["Without a pointer", "cursorFarLeft", ["Ctrl+Shift+ArrowLeft"], "Move it by ten"],
  ["Without a pointer", "cursorFarRight", ["Ctrl+Shift+ArrowRight"], "Move it by ten"],
  ["Without a pointer", "cursorFarUp", ["Ctrl+Shift+ArrowUp"], "Move it by ten"],
  ["Without a pointer", "cursorFarDown", ["Ctrl+Shift+ArrowDown"], "Move it by ten"],
  ["Without a pointer", "press", ["KeyX"], "Press or release at the cursor"],
  ["Help", "help", ["F1", "Shift+Slash"], "This sheet"],
];

const CHANGED = "samseg-keys";

/** A key's name with its modifiers, as in the table. @param {KeyboardEvent} event */
export function nameOf({ code, key, ctrlKey, metaKey, shiftKey }) {
  const ctrl = ctrlKey || metaKey;
  const letter = ctrl && /^[a-z]$/i.test(key) ? `Key${key.toUpperCase()}` : code;
  return `${ctrl ? "Ctrl+" : ""}${shiftKey ? "Shift+" : ""}${letter}`;
}

/** How a key's name reads. @param {string} name */
export function legible(name) {
  const symbols = {
    BracketLeft: "[",
    BracketRight: "]",
    Equal: "+",
    Minus: "-",
    Slash: "?",
    ArrowLeft: "\u2190",
    ArrowRight: "\u2192",
    ArrowUp: "\u2191",
    ArrowDown: "\u2193",
    PageUp: "PgUp",
    PageDown: "PgDn",
    Delete: "Del",
    NumpadEnter: "Enter (pad)",
    NumpadAdd: "+ (pad)",
    NumpadSubtract: "- (pad)",
  };
  const parts = name.split("+");
  const key = parts.pop();
  if (key === "Slash" && parts.includes("Shift")) return "?";
  return [...parts, symbols[key] ?? key.replace(/^(Key|Digit)/, "")].join("+");
}

export class Keys {
  /** @param {Storage|null} storage  keeps changed keys */
  constructor(storage) {
    this.storage = storage;
    this.load();
  }

  load() {
    let changed = {};
    try {
      changed = JSON.parse(this.storage?.getItem(CHANGED) ?? "{}");
    } catch {
      // what is stored is no JSON: the table holds
    }
    /** @type {Map<string, string[]>} keys by what they do */
    this.bound = new Map(TABLE.map(([, does, keys]) => [does, Array.isArray(changed[does]) ? changed[does] : keys]));
  }

  /** What an event asks for. @param {KeyboardEvent} event @returns {string|undefined} */
  does(event) {
    if (event.key === "?") return "help"; // where it is differs most between layouts
    const name = nameOf(event);
    return [...this.bound].find(([, keys]) => keys.includes(name))?.[0];
  }

  /** The first key of something, as it reads. */
  label(does) {
    const [first] = this.bound.get(does) ?? [];
    return first ? legible(first) : "";
  }

  /** Give something another key; who had it loses it. @param {string} does @param {string} name */
  rebind(does, name) {
    for (const [other, keys] of this.bound)
      this.bound.set(
        other,
        keys.filter((key) => key !== name),
      );
    this.bound.set(does, [name]);
    const changed = TABLE.filter(([, each, keys]) => this.bound.get(each).join() !== keys.join());
    this.storage?.setItem(
      CHANGED,
      JSON.stringify(Object.fromEntries(changed.map(([, each]) => [each, this.bound.get(each)]))),
    );
  }

  reset() {
    this.storage?.removeItem(CHANGED);
    this.load();
  }
}
