/** The side panel: objects, numbers, the list of images. Names of files go in as text, never as HTML. */

/** @param {string} tag @param {object} [properties] @param {(Node|string)[]} children */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("data-") || name.startsWith("aria-")) made.setAttribute(name, String(value));
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** How a prompt reads. */
export function named(prompt) {
  if (prompt.point) return `point at ${prompt.point.join(", ")}`;
  const [x0, y0, x1, y1] = prompt.box;
  return `box ${x1 - x0} \u00d7 ${y1 - y0} at ${x0}, ${y0}`;
}

/**
 * @param {HTMLElement} list @param {object[]} prompts @param {{chosen: number, waits: (prompt: object) => boolean,
 *   alpha: (prompt: object) => number|null|undefined, choose: (i: number) => void, remove: (i: number) => void}} owner
 */
export function showObjects(list, prompts, owner) {
  list.replaceChildren(
    ...prompts.map((prompt, i) => {
      const alpha = owner.alpha(prompt);
      const more = owner.waits(prompt) ? " \u2026" : "";
      const choose = element(
        "button",
        { title: alpha == null ? "" : `alpha = ${alpha.toFixed(3)}: the weight of SAM` },
        `${i + 1}  ${named(prompt)}${more}`,
      );
      choose.addEventListener("click", () => owner.choose(i));
      const remove = element("button", { "aria-label": `Remove object ${i + 1}` }, icon("close"));
      remove.addEventListener("click", () => owner.remove(i));
      return element("li", { "aria-current": i === owner.chosen }, choose, remove);
    }),
  );
}

const MARKS = {
  open: "",
  draft: "draft",
  accepted: "accepted",
  skipped: "skipped",
  failed: "cannot be read",
  gone: "gone",
};

export class ImageList {
  /** @param {HTMLElement} list @param {(id: string) => void} open */
  constructor(list, open) {
    Object.assign(this, { list, open, rows: new Map() });
  }

  /** @param {object[]} images */
  fill(images) {
    this.rows = new Map(
      images.map((image) => {
        const row = element(
          "button",
          {},
          element("span", { className: "dot" }),
          element("span", { className: "text" }, image.name),
          element("span", { className: "more" }),
        );
        row.addEventListener("click", () => this.open(image.id));
        return [image.id, row];
      }),
    );
    this.list.replaceChildren(...[...this.rows.values()].map((row) => element("li", {}, row)));
    images.forEach((image) => this.update(image));
  }

  /** @param {object} image @param {string} [tab]  this tab's name */
  update(image, tab) {
    const row = this.rows.get(image.id);
    if (!row) return;
    const away = image.lease && image.lease.tab !== tab;
    const mark = away ? (image.lease.author ?? "elsewhere") : MARKS[image.state];
    row.dataset.state = image.state;
    row.title = [image.name, mark, image.reason].filter(Boolean).join(" \u2013 ");
    row.lastChild.textContent = image.state === "accepted" && image.position != null ? `#${image.position + 1}` : mark;
  }

  mark(id) {
    for (const [each, row] of this.rows) row.setAttribute("aria-current", String(each === id));
    this.rows.get(id)?.scrollIntoView({ block: "nearest" });
  }
}

const COLUMNS = [
  ["sam", "SAM alone"],
  ["sam_clipped", "SAM inside the crops"],
  ["aux_ol", "SAM + network"],
];
const MEANING = {
  dsc: "Dice coefficient with the mask you accepted. You start from the mask of SAM + network, so that its agreement is biased upwards; --blind shows the comparison without that bias.",
  saved_effort:
    "1 - changed(SAM + network) / changed(SAM inside the crops): pixels you changed, against those you would have changed without the network.",
  changed: "Pixels that differ between the fused mask and what you accepted, all images together.",
  seconds: "Pauses of more than 30 s are not counted.",
};

/** @param {HTMLElement} place @param {object} numbers  as the server counts them @param {number|null} alpha */
export function showNumbers(place, numbers, alpha) {
  if (!numbers?.accepted) {
    place.replaceChildren(element("p", { className: "quiet" }, "From the first accepted image on."));
    return;
  }
  const percent = (value) => (value == null ? "\u2013" : (100 * value).toFixed(1));
  const row = ([name, label]) =>
    element(
      "tr",
      { className: name === "aux_ol" ? "best" : "" },
      element("th", { scope: "row" }, label),
      element("td", {}, percent(numbers.dsc[name])),
      element("td", {}, percent(numbers.dsc_recent?.[name])),
    );
  const head = element(
    "tr",
    {},
    element("th", { title: MEANING.dsc }, "DSC, %"),
    element("th", {}, "all"),
    element("th", {}, "last 10"),
  );
  const facts = [
    ["saved effort", `${percent(numbers.saved_effort)} %`, MEANING.saved_effort],
    [
      "pixels changed per image",
      Math.round(numbers.changed.aux_ol / numbers.accepted).toLocaleString("en"),
      MEANING.changed,
    ],
    ["seconds per image", (numbers.seconds / numbers.accepted).toFixed(1), MEANING.seconds],
    ["strokes, undos", `${numbers.strokes}, ${numbers.undos}`, ""],
    ["alpha", alpha == null ? "\u2013" : alpha.toFixed(3), "Weight of SAM in the fused mask; the rest is the network's."],
  ];
  if (numbers.blind?.accepted) {
    const { dsc, accepted } = numbers.blind;
    facts.push([
      `blind, n = ${accepted}`,
      `${percent(dsc.aux_ol)} / ${percent(dsc.sam)}`,
      "DSC of SAM + network / SAM alone where the draft started from SAM's mask: without the bias.",
    ]);
  }
  const list = element("dl", { className: "facts" });
  for (const [label, value, meaning] of facts)
    list.append(element("dt", { title: meaning }, label), element("dd", {}, value));
  place.replaceChildren(
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...COLUMNS.map(row))),
    list,
  );
  const trend = numbers.trend ?? [];
  if (trend.length > 2) {
    const canvas = element("canvas", { role: "img" });
    const label = `pixels changed, images 1 to ${trend.length}`;
    canvas.setAttribute("aria-label", label);
    place.append(
      element(
        "figure",
        {},
        canvas,
        element("figcaption", {}, element("span", {}, label), element("span", {}, "fused / clipped")),
      ),
    );
    drawTrend(
      canvas,
      trend.map((each) => each.changed),
      trend.map((each) => each.changed_sam_clipped),
    );
  }
}

function drawTrend(canvas, ours, others) {
  const dpr = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth || 260, canvas.clientHeight || 38];
  canvas.width = width * dpr;
  canvas.height = height * dpr;
  const context = canvas.getContext("2d");
  context.scale(dpr, dpr);
  const top = Math.max(1, ...ours, ...others);
  const line = (values, colour, thickness) => {
    context.beginPath();
    values.forEach((value, i) =>
      context.lineTo(1 + (i / (values.length - 1)) * (width - 2), height - 2 - (value / top) * (height - 4)),
    );
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.stroke();
  };
  line(others, "#71808d", 1);
  line(ours, "#5cc8e0", 1.75);
}
