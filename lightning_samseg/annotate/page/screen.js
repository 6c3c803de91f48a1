/** What the page shows around the image: names, states, hints, messages, and the marks over it. */

import { sliceOf } from "./images.js";
import { areaOutside } from "./mask.js";
import { showObjects } from "./panel.js";
import { range } from "./tones.js";

const $ = (id) => document.getElementById(id);

const TIPS = {
  box: () => "Drag a box around an object. SAM and the network answer at once.",
  point: () => "Click on an object. SAM and the network answer at once.",
  brush: (keys) =>
    `Paint; Alt or the right button erases. ${keys.label("smaller")} ${keys.label("larger")} or Ctrl+wheel: size`,
  eraser: (keys) => `Erase; Alt paints. ${keys.label("smaller")} ${keys.label("larger")} or Ctrl+wheel: size`,
  lasso: () => "Draw around a region to add it; Alt cuts it out; Ctrl+click sets corners",
  polygon: () => "Click corner by corner, close it at the first; Alt at the first corner cuts out",
  levels: () => "Drag left and right for the window's width, up and down for its level",
};

export class Screen {
  /** @param {object} app  what is shown, see app.js */
  constructor(app) {
    this.app = app;
  }

  labels() {
    for (const button of document.querySelectorAll("button[data-does]")) {
      const label = this.app.keys.label(button.dataset.does);
      const name = button.getAttribute("aria-label");
      if (name) button.title = label ? `${name} (${label})` : name;
      const key = button.querySelector("kbd");
      if (key) key.textContent = label;
    }
  }

  show() {
    this.shown ||= requestAnimationFrame(() => {
      this.shown = 0;
      this.#show();
    });
  }

  #show() {
    const { session, view, tools, workspace, images } = this.app;
    if (!workspace) return;
    const { image, draft } = session;
    $("name").textContent = image?.name ?? "";
    const known = image && images.of(image.id);
    const state =
      session.state === "ready" && known?.position != null
        ? "correcting"
        : ({ ready: "", loading: "", empty: "" }[session.state] ?? session.state);
    $("state").textContent = state;
    $("state").dataset.kind = state === "accepted" ? "good" : "warn";
    const slice = image && sliceOf(images.all, image);
    $("slice").textContent = slice ? `slice ${slice.slice} of ${slice.count}` : "";
    $("done").textContent = `${images.done} of ${images.all.length} done`;
    $("progress").max = Math.max(1, images.all.length);
    $("progress").value = images.done;
    const status = {
      saving: ["saving", ""],
      saved: ["saved", "good"],
      kept: ["kept in this browser", "warn"],
      full: ["the server's disk is full; kept in this browser", "bad"],
    };
    const [text, kind] = (this.app.there
      ? status[this.app.saving]
      : ["the server does not answer; strokes are kept in this browser", "bad"]) ?? ["", ""];
    $("status").textContent = text;
    $("status").dataset.kind = kind;
    for (const button of $("tools").querySelectorAll("button")) {
      const chosen = tools.name === button.dataset.does;
      button.setAttribute("aria-checked", String(chosen));
      const other = { box: "point", point: "box" }[button.dataset.does];
      button.hidden = other === workspace.prompt;
    }
    const ready = session.state === "ready";
    for (const does of ["accept", "nothing", "skip", "fused", "sam", "empty"]) {
      document.querySelector(`[data-does="${does}"]`).disabled = !ready;
    }
    document.querySelector('[data-does="undo"]').disabled = !ready || !draft.canUndo;
    document.querySelector('[data-does="redo"]').disabled = !ready || !draft.canRedo;
    $("stage").classList.toggle("panning", tools.panning);
    $("stage").classList.toggle("closed", !ready);
    if (this.app.chosen >= draft.prompts.length) this.app.chosen = -1;
    $("object-count").textContent = draft.prompts.length || "";
    showObjects($("objects"), draft.prompts, {
      chosen: this.app.chosen,
      waits: (prompt) => ready && !session.answers.complete([prompt]),
      alpha: (prompt) => session.answers.of(prompt)?.alpha,
      choose: (i) => {
        this.app.chosen = i;
        view.redrawMarks();
        this.show();
      },
      remove: (i) => this.app.session.removePrompt(i),
    });
    $("size-value").textContent = `${tools.settings.size} px`;
    $("size").value = String(Math.round(Math.log(tools.settings.size) / Math.log(1.08)));
    this.#showWindow();
    this.#banner();
    this.#hint();
    this.#outside();
    view.redrawMarks();
  }

  #showWindow() {
    const { view } = this.app;
    if (!view.window) return;
    this.limits ??= view.pixels && range(view.pixels);
    const digits = Number.isInteger(view.window[0]) && view.window[1] - view.window[0] > 20 ? 0 : 3;
    for (const [id, value] of [
      ["low", view.window[0]],
      ["high", view.window[1]],
    ]) {
      if (document.activeElement !== $(id)) $(id).value = String(Number(value.toFixed(digits)));
      $(id).title = `values of this image: ${this.limits?.join(" to ")}`;
    }
  }

  /** Paint outside of every crop is saved, but nothing can be learned from it. Counted when the hand rests. */
  #outside() {
    clearTimeout(this.counting);
    this.counting = setTimeout(() => {
      const { session } = this.app;
      const crops = session.answers.crops(session.draft.prompts);
      const place = $("outside");
      const known = session.state === "ready" && crops.length > 0 && crops.every(Boolean) && !this.app.tools.busy;
      const pixels = known ? areaOutside(session.draft.base, crops) : 0;
      place.hidden = !pixels;
      place.textContent = pixels
        ? `${pixels.toLocaleString("en")} pixels outside of the crops are saved, but not learned from.`
        : "";
      $("enlarge").hidden = !pixels || session.draft.enlarged(crops) === session.draft.prompts;
    }, 250);
  }

  #banner() {
    const { session, images } = this.app;
    const again = ["Try again", () => this.app.open(session.image.id)];
    const text = {
      loading: ["Opening\u2026"],
      accepted: [
        "Accepted. The network has learned from it; a correction replaces the mask, but cannot be learned.",
        [`Reopen (${this.app.keys.label("reopen")})`, () => session.reopen()],
      ],
      skipped: [
        `Skipped${session.reason ? `: ${session.reason}` : "."}`,
        [`Reopen (${this.app.keys.label("reopen")})`, () => session.reopen()],
      ],
      elsewhere: [
        "Open in another tab or by another person.",
        ["Take over", () => this.app.open(session.image.id, true)],
      ],
      conflict: [session.reason, ["See both", () => this.app.settle()]],
      unreachable: [session.reason, again],
      failed: [session.reason, again],
      empty:
        images.done === images.all.length
          ? ["All images are done. Masks are in the workspace; any image can be opened from the list."]
          : ["The other images are open elsewhere. Choose one from the list."],
    }[session.state];
    const late = session.state !== "loading";
    $("banner").hidden = !text || !(late || performance.now() - (this.loadingSince ?? performance.now()) > 300);
    if (session.state === "loading") this.loadingSince ??= performance.now();
    else this.loadingSince = null;
    if (!text) return;
    const button = $("banner").querySelector("button"); // always the same one: it may be under a finger right now
    $("banner").firstElementChild.textContent = text[0];
    button.hidden = !text[1];
    if (text[1]) [button.textContent, button.onclick] = text[1];
  }

  #hint() {
    const { tools, keys } = this.app;
    const close = `${keys.label("accept")} closes it, Backspace takes a corner back`;
    $("hint").textContent = tools.open && tools.tool.corners ? close : TIPS[tools.name](keys);
    $("zoom").textContent = this.app.session.image
      ? `${Math.round(this.app.view.zoom * this.app.view.dpr * 100)} %`
      : "";
    this.pixel();
  }

  pixel() {
    const { place } = this.app.tools;
    const { pixels } = this.app.view;
    const [x, y] = place ? [Math.floor(place.x), Math.floor(place.y)] : [-1, -1];
    if (!this.app.session.image || !pixels || x < 0 || y < 0 || x >= pixels.width || y >= pixels.height) {
      $("pixel").textContent = "";
      return;
    }
    const start = (y * pixels.width + x) * pixels.channels;
    const values = Array.from({ length: pixels.channels }, (_, i) => Number(pixels.values[start + i].toPrecision(6)));
    $("pixel").textContent = `${x}, ${y}: ${values.join(" ")}`;
  }

  drawMarks(context) {
    const { session, view, tools } = this.app;
    if (!session.image) return;
    session.draft.prompts.forEach((prompt, i) => {
      const chosen = i === this.app.chosen;
      const answer = session.answers.of(prompt);
      const label = session.state === "ready" && !(answer && !answer.early) ? `${i + 1} \u2026` : String(i + 1);
      if (view.hidden) return;
      if (prompt.box) view.frameBox(context, prompt.box, chosen ? "#ffffff" : "#ffd9a8", [], label);
      else {
        const [x, y] = view.toScreen(prompt.point[0] + 0.5, prompt.point[1] + 0.5);
        context.beginPath();
        context.arc(x, y, 5, 0, 2 * Math.PI);
        context.fillStyle = chosen ? "#ffffff" : "#ffd9a8";
        context.fill();
        view.tag(context, x + 5, y - 5, label, chosen ? "#ffffff" : "#ffd9a8");
      }
      if (chosen && answer?.crop) view.frameBox(context, answer.crop, "rgb(255 255 255 / 60%)", [2, 5]);
    });
    if (session.state === "ready") tools.draw(context);
  }

  /** Say something to the expert, at a prompt if it is about one. */
  say(text, kind = "", prompt = null) {
    const note = $("note");
    note.textContent = text;
    note.className = `${kind} ${prompt ? "placed" : ""}`;
    const at = prompt && this.app.view.toScreen(...(prompt.box ? [prompt.box[0], prompt.box[3]] : prompt.point));
    note.style.left = at ? `${Math.max(8, Math.min(at[0], this.app.view.screenWidth - 345))}px` : "";
    note.style.top = at ? `${Math.max(8, Math.min(at[1] + 8, this.app.view.screenHeight - 80))}px` : "";
    note.hidden = false;
    clearTimeout(this.noting);
    this.noting = setTimeout(() => this.hideNote(), 4000 + 60 * text.length);
  }

  hideNote() {
    $("note").hidden = true;
  }

  /** The image cannot be changed now: its banner says why. */
  remind() {
    if (this.app.session.state !== "loading")
      $("banner").animate?.([{ transform: "translateX(-50%) scale(1.04)" }, { transform: "translateX(-50%)" }], 180);
  }
}
