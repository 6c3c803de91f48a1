/** Dialogs: the keys, why an image is skipped, two drafts of one image, the token. */

import { decode } from "./rle.js";
import { element } from "./panel.js";
import { TABLE, legible, nameOf } from "./keys.js";

const $ = (id) => document.getElementById(id);

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close(""));
}

/** Whether one is open: keys are its own then. */
export function dialogOpen() {
  return document.querySelector("dialog[open]") !== null;
}

/** @param {import("./keys.js").Keys} keys @param {() => void} changed  told when a key was changed */
export function showKeys(keys, changed) {
  const fill = () => {
    const groups = [...new Set(TABLE.map(([group]) => group))];
    $("keys").replaceChildren(
      ...groups.map((group) =>
        element(
          "section",
          {},
          element("h2", {}, group),
          ...TABLE.filter(([of]) => of === group).map(([, does, , label]) => line(does, label)),
        ),
      ),
    );
  };
  const line = (does, label) => {
    const bound = keys.bound.get(does).map(legible).join(", ") || "none";
    const button = element("button", { "aria-label": `${label}: ${bound}. Change` }, bound);
    button.addEventListener("click", () => waitForKey(button, does));
    return element("div", { className: "line" }, element("span", {}, label), button);
  };
  const waitForKey = (button, does) => {
    button.textContent = "press a key";
    button.classList.add("waits");
    const pressed = (event) => {
      if (/^(Control|Shift|Alt|Meta)/.test(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      button.removeEventListener("keydown", pressed);
      if (event.key !== "Escape" && event.key !== "Tab") keys.rebind(does, nameOf(event));
      changed();
      fill();
    };
    button.addEventListener("keydown", pressed);
    button.addEventListener("blur", fill, { once: true });
    button.focus();
  };
  $("keys-reset").onclick = () => {
    keys.reset();
    changed();
    fill();
  };
  fill();
  $("help").showModal();
}

/** @returns {Promise<string|null>} the reason; null: it was cancelled */
export function askReason() {
  return answered(
    $("skip"),
    () => $("reason").value.trim(),
    () => $("reason").select(),
  );
}

/** @param {string} [why]  what was wrong with the one before @returns {Promise<string>} a token */
export async function askToken(why) {
  if (why) $("token-why").textContent = why;
  for (;;) {
    const value = await answered($("token"), () => $("token-value").value.trim());
    const token = value && (/[#&]t=([^&]+)/.exec(value)?.[1] ?? value);
    if (token) return decodeURIComponent(token);
  }
}

/** Show a dialog until it is left. */
function answered(dialog, value, shown = () => {}) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? value() : null), { once: true });
    dialog.showModal();
    shown();
  });
}

/**
 * @param {{mine: {mask: object}, theirs: {mask: object|null}}} conflict @param {HTMLCanvasElement} picture
 * @returns {Promise<"mine"|"theirs"|null>}
 */
export function showConflict(conflict, picture) {
  const dialog = $("conflict");
  for (const which of ["mine", "theirs"]) thumbnail($(which), picture, conflict[which].mask);
  return new Promise((resolve) => {
    for (const button of dialog.querySelectorAll("[data-settle]"))
      button.onclick = () => dialog.close(button.dataset.settle);
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.showModal();
  });
}

function thumbnail(canvas, picture, runs) {
  const scale = Math.min(1, 420 / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!runs) return;
  const mask = decode(runs);
  context.fillStyle = "rgb(60 180 208 / 55%)";
  for (let y = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1) {
      const [column, row] = [Math.floor((x + 0.5) / scale), Math.floor((y + 0.5) / scale)];
      if (mask.data[Math.min(row, mask.height - 1) * mask.width + Math.min(column, mask.width - 1)])
        context.fillRect(x, y, 1, 1);
    }
  }
}
