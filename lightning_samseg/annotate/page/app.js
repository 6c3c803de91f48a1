/** The page: puts images on the desk one after the other, and connects keys, buttons, panel and events with it. */

import { Api, Refusal } from "./api.js";
import { askReason, askToken, dialogOpen, showConflict, showKeys } from "./dialogs.js";
import { Images, sliceOf } from "./images.js";
import { Keys } from "./keys.js";
import { ImageList, showNumbers } from "./panel.js";
import { KeyboardCursor, listen } from "./pointer.js";
import { Screen } from "./screen.js";
import { Session } from "./session.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

const IDLE = 30; // s without a sign of the expert that do not count as work
const STEP = 60; // CSS pixels that an arrow moves the image
const $ = (id) => document.getElementById(id);

/** Begin anew with another token. */
export function restart(token) {
  window.sessionStorage.setItem("samseg-token", token);
  window.location.reload();
}

export class App {
  /** @param {string} token @param {string} tab  its name @param {import("./store.js").Store} store */
  constructor(token, tab, store) {
    this.api = new Api(token, tab);
    this.store = store;
    this.keys = new Keys(window.localStorage);
    this.view = new View($("stage"));
    this.session = new Session(this.api, store, this.view, {
      changed: () => this.screen.show(),
      say: (text, kind, prompt) => this.screen.say(text, kind, prompt),
      remind: () => this.screen.remind(),
      status: (status, sender) => this.status(status, sender),
      answered: ({ alpha, learned, pending }) => this.learned({ alpha, learned, pending }),
      accepted: (id, answer, differ) => this.accepted(id, answer, differ),
    });
    this.tools = new Tools(this.session);
    this.session.busy = () => this.tools.busy;
    this.cursor = new KeyboardCursor(this.view, this.tools);
    this.images = new Images(this.api);
    this.list = new ImageList($("images"), (id) => this.open(id));
    this.chosen = -1;
    /** Senders that have something which the server has not got. */
    this.unsent = new Set();
    this.alpha = null;
    this.there = true;
    this.lastSign = performance.now();
    this.screen = new Screen(this);
    this.view.drawMarks = (context) => this.screen.drawMarks(context);
    listen($("stage"), this.view, this.tools);
    this.#listen();
  }

  async start() {
    const workspace = await this.api.workspace();
    this.workspace = workspace;
    this.session.workspace = workspace.workspace ?? "";
    this.images.all = workspace.images;
    this.list.fill(workspace.images);
    $("class").textContent = workspace.class;
    document.title = `${workspace.class} \u2013 annotate`;
    this.tools.choose(workspace.prompt);
    this.numbers = workspace.numbers;
    this.learned(workspace);
    for (const text of workspace.notes ?? []) this.screen.say(text);
    this.api.follow(
      (name, data) => this.heard(name, data),
      (there) => this.connection(there),
    );
    await this.#sendKept();
    const first = this.images.of(window.sessionStorage.getItem("samseg-image")) ?? this.images.of(workspace.next);
    if (first) await this.open(first.id);
    else this.screen.show();
  }

  /** Drafts that this browser alone has: of images other than the one that is opened. */
  async #sendKept() {
    const open = window.sessionStorage.getItem("samseg-image");
    for (const kept of await this.store.all(this.session.workspace)) {
      if (kept.sent || kept.id === open || !this.images.of(kept.id)) continue;
      const { mask, prompts, effort } = kept.draft;
      const body = { revision: kept.revision, prompts, mask, effort };
      try {
        const { revision } = await this.api.open(kept.id);
        if (revision !== kept.revision) throw new Refusal(409, { error: "It was changed elsewhere." });
        const answer = await (kept.accept ? this.api.accept(kept.id, body) : this.api.draft(kept.id, body));
        await (kept.accept
          ? this.store.delete(kept.key)
          : this.store.put({ ...kept, sent: true, revision: answer.revision }));
      } catch (error) {
        this.screen.say(
          `${this.images.of(kept.id).name}: this browser has a draft that the server has not got. Open the image to see it. (${error.message})`,
          "bad",
        );
      }
    }
  }

  /** @param {string} id */
  async open(id, takeOver = false) {
    const image = this.images.of(id);
    if (!image || this.tools.busy) return;
    this.tools.choose(this.workspace.prompt); // each image begins with a prompt
    this.cursor.reset();
    this.chosen = -1;
    window.sessionStorage.setItem("samseg-image", id);
    this.list.mark(id);
    this.screen.hideNote();
    if (!dialogOpen()) $("stage").focus({ preventScroll: true }); // Enter accepts, whatever was clicked on
    const pixels = this.images.load(id);
    await this.session.open(image, pixels, takeOver, this.#keptView(image));
    this.screen.limits = null;
    this.images.prepare(id);
  }

  /** Between slices of one volume window and place stay as they are. */
  #keptView(image) {
    const { session, view } = this;
    const [from, to] = [session.image, image].map((each) => each && sliceOf(this.images.all, each)?.volume);
    if (!to || from !== to || from === undefined) return null;
    return { window: session.windowed ? view.window : null, size: `${view.width} x ${view.height}` };
  }

  // What the server says

  heard(name, data) {
    if (name === "learned") {
      this.numbers = data.numbers ?? this.numbers;
      this.learned(data);
    } else if (name === "image") {
      this.images.update(data);
      this.list.update(data, this.api.tab);
      const here = this.session.image?.id === data.id;
      if (here && data.lease && data.lease.tab !== this.api.tab) this.session.taken();
      this.screen.show();
    } else if (name === "note") this.screen.say(data.text);
    else if (name === "refused")
      askToken("The server does not know this tab's token any more: it was started anew. Paste the new address.").then(
        restart,
      );
  }

  learned({ learned, pending, alpha }) {
    if (alpha != null) this.alpha = alpha;
    this.counts = { learned, pending };
    $("learner").textContent = `learned ${learned}${pending ? ` \u00b7 ${pending} waiting` : ""}`;
    showNumbers($("numbers"), this.numbers, this.alpha);
  }

  connection(there) {
    const back = there && !this.there;
    this.there = there;
    this.screen.show();
    if (!back) return;
    for (const sender of this.unsent) sender.wake();
    this.api.workspace().then(
      (workspace) => {
        for (const image of workspace.images) {
          this.images.update(image);
          this.list.update(image, this.api.tab);
        }
        this.numbers = workspace.numbers;
        this.learned(workspace);
      },
      () => {},
    );
    if (this.session.state === "unreachable") this.open(this.session.image.id);
    else if (this.session.state === "ready") this.session.refresh();
  }

  status(status, sender) {
    if (status === "saved") this.unsent.delete(sender);
    else this.unsent.add(sender);
    this.saving = status;
    this.screen.show();
  }

  accepted(id, answer, differ) {
    this.numbers = answer.numbers;
    this.learned(this.counts);
    if (differ != null)
      this.screen.say(`Blind image: the fused mask differed from yours in ${differ.toLocaleString("en")} pixels.`);
    if (!this.session.image && answer.next) this.open(answer.next);
  }

  // What the expert does

  /** @param {string} does  see keys.js */
  do(does) {
    const { session, tools, view } = this;
    const arrows = { left: [1, 0], right: [-1, 0], up: [0, 1], down: [0, -1] };
    if (does in tools.all && does !== "pan") this.choose(does);
    else if (does in arrows) view.pan(...arrows[does].map((value) => value * STEP));
    else if (does.startsWith("cursor")) {
      const far = does.startsWith("cursorFar");
      const [dx, dy] = arrows[does.slice(far ? 9 : 6).toLowerCase()];
      this.cursor.move(-dx * (far ? 10 : 1), -dy * (far ? 10 : 1));
    } else if (does === "press") this.cursor.press();
    else if (tools.busy)
      return; // one thing after the other
    else if (does === "fused" || does === "sam" || does === "empty") session.start(does);
    else if (does === "next" || does === "previous") this.page(does === "next" ? 1 : -1);
    else this.#actions[does]?.();
    this.screen.show();
  }

  #actions = {
    smaller: () => this.tools.resize(1 / 1.25),
    larger: () => this.tools.resize(1.25),
    remove: () => this.session.removePrompt(this.chosen < 0 ? this.session.draft.prompts.length - 1 : this.chosen),
    enlarge: () => this.session.enlarge(this.chosen),
    choose: () => {
      const { length } = this.session.draft.prompts;
      this.chosen = length ? (this.chosen + 1) % length : -1;
    },
    undo: () => this.session.undo(),
    redo: () => this.session.redo(),
    accept: () => this.accept(),
    nothing: () => this.session.nothing() && this.accept(),
    skip: () => this.skip(),
    reopen: () =>
      ["accepted", "skipped"].includes(this.session.state)
        ? this.session.reopen()
        : this.screen.say("This image is open."),
    auto: () => {
      if (!this.session.image) return;
      this.session.setWindow(this.view.pixels.window);
      this.session.windowed = false;
    },
    turn: () => this.view.turn(),
    fit: () => this.view.fit(),
    actual: () => {
      const actual = 1 / this.view.dpr;
      if (Math.abs(this.view.zoom - actual) < 1e-9) this.view.fit();
      else {
        const { sx, sy } = this.tools.place ?? {};
        this.view.zoomAt(actual / this.view.zoom, sx, sy);
      }
    },
    zoomIn: () => this.view.zoomAt(1.25, this.tools.place?.sx, this.tools.place?.sy),
    zoomOut: () => this.view.zoomAt(1 / 1.25, this.tools.place?.sx, this.tools.place?.sy),
    help: () => showKeys(this.keys, () => this.screen.labels()),
  };

  choose(tool) {
    const other = { box: "point", point: "box" }[tool];
    if (other === this.workspace.prompt) {
      this.screen.say(
        `This workspace takes ${other === "box" ? "boxes" : "points"} (annotate --prompt), as its stream has one kind of prompt.`,
      );
    } else this.tools.choose(tool);
  }

  accept() {
    const { session, tools } = this;
    if (tools.tool.open) {
      tools.tool.close();
      return;
    }
    this.#count();
    const { image } = session;
    if (!session.accept()) return;
    this.images.update({ ...image, state: "accepted" });
    const next = this.images.todo(image.id);
    if (next) this.open(next.id);
    else this.#finished();
  }

  #finished() {
    window.sessionStorage.removeItem("samseg-image");
    this.session.leave();
    this.session.state = "empty";
    this.list.mark(null);
    this.screen.show();
  }

  async skip() {
    const { session } = this;
    const { image } = session;
    if (!session.editable()) return;
    const reason = await askReason();
    if (reason === null || session.image !== image) return;
    const answer = await session.skip(reason);
    if (!answer || session.image !== image) return;
    this.images.update({ ...image, state: "skipped", reason });
    const next = this.images.todo(image.id);
    if (next) await this.open(next.id);
    else this.#finished();
  }

  page(step) {
    const { image } = this.session;
    const beside = image ? this.images.beside(image.id, step) : this.images.all[0];
    if (beside) this.open(beside.id);
  }

  /** Count active time. */
  #count() {
    const now = performance.now();
    const seconds = (now - this.lastSign) / 1000;
    this.lastSign = now;
    if (seconds < IDLE && this.session.state === "ready") this.session.draft.effort.seconds += seconds;
  }

  #listen() {
    for (const type of ["pointerdown", "pointermove", "keydown", "wheel"]) {
      window.addEventListener(type, () => this.#count(), { passive: true, capture: true });
    }
    for (const button of document.querySelectorAll("button[data-does]")) {
      button.addEventListener("click", () => {
        if (button.dataset.does === "blink") this.blink(!this.view.hidden);
        else this.do(button.dataset.does);
        if (!dialogOpen()) $("stage").focus();
      });
    }
    window.addEventListener("keydown", (event) => this.#keyDown(event));
    window.addEventListener("keyup", (event) => {
      if (this.held === event.code) {
        this.held = null;
        this.blink(false);
        this.tools.panning = false;
        this.screen.show();
      }
    });
    window.addEventListener("blur", () => {
      this.held = null;
      this.blink(false);
      this.tools.panning = false;
    });
    $("size").addEventListener("input", () => {
      this.tools.settings.size = Math.round(1.08 ** Number($("size").value));
      this.view.redrawMarks();
      this.screen.show();
    });
    for (const id of ["low", "high"]) {
      $(id).addEventListener("change", () => {
        const window = [Number($("low").value), Number($("high").value)];
        if (this.session.image && window[0] < window[1]) this.session.setWindow(window);
        else this.screen.show();
      });
    }
    $("stage").addEventListener("pointermove", () => this.screen.pixel());
    this.screen.labels();
  }

  #keyDown(event) {
    const { target } = event;
    if (dialogOpen()) return;
    if (target instanceof HTMLInputElement && target.type !== "range") {
      if (event.key === "Enter" || event.key === "Escape") $("stage").focus(); // done with the field
      return;
    }
    if (event.key === "Escape") {
      this.tools.cancel();
      return;
    }
    if (event.key === "Backspace" && this.tools.tool.open) {
      this.tools.tool.back?.();
      return;
    }
    if (target instanceof HTMLInputElement && /^(Arrow|Page|Home|End)/.test(event.code)) return; // a slider's own
    const does = this.keys.does(event);
    const onButton = target instanceof HTMLButtonElement && (event.code === "Enter" || event.code === "Space");
    if (!does || onButton || event.altKey) return;
    event.preventDefault();
    if (does === "blink" || does === "pan") {
      this.held = event.code;
      if (does === "blink") this.blink(true);
      else this.tools.panning = true;
      this.screen.show();
    } else if (!event.repeat || !["accept", "nothing", "skip", "help", "press"].includes(does)) this.do(does);
  }

  blink(hidden) {
    if (this.view.hidden === hidden) return;
    this.view.hidden = hidden;
    this.view.redrawMasks();
    document.querySelector('[data-does="blink"]').setAttribute("aria-pressed", String(hidden));
  }

  async settle() {
    const { session } = this;
    const which = await showConflict(session.conflict, this.view.source);
    if (which) await session.settle(which);
  }
}
