/* ---------- why: matched patches ---------- */

function why(query, c) {
  const rank = c.after !== null ? "Rank " + c.after + " after reranking" : "Rank " + c.before + " before reranking";
  const from = c.after !== null && c.before !== null && c.before !== c.after ? ", was " + c.before : "";
  const header = h("header", {},
    h("h3", {}, rank + from),
    c.relevant !== null && h("span", { class: verdictWord(c.relevant) }, mark(c.relevant) + " " + verdictWord(c.relevant)),
    h("span", { class: "soft name clamp", title: c.name }, c.name, c.label && ` (${c.label})`));
  const note = c.note && h("p", { class: "hint" }, c.note);
  if (c.structural === null) {
    return [header, h("p", { class: "soft" }, `Not reranked: it keeps its rank by pooled cosine ${number(c.pooled, 4)}.`), note].filter(Boolean);
  }
  const marks = c.matches.map(() => []);
  const { figure, svg, frames } = stage(query, c);
  const patches = c.plan && patchLayers(query, c, frames);
  // Pointed at: null, the number of a match, or { side, cell } of a patch; `pinned` comes back when nothing is.
  let pinned = null;
  const light = (at) => {
    const patch = at !== null && typeof at === "object";
    figure.classList.toggle("busy", at !== null);
    figure.classList.toggle("patch", patch);
    marks.forEach((nodes, i) => nodes.forEach((node) => node.classList.toggle("lit", patch ? patches.touches(at, c.matches[i]) : i === at)));
    if (patches) patches.show(patch ? at : null);
  };
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const controls = {
    enter: light,
    leave: () => light(pinned),
    pin: (at) => { pinned = same(at, pinned) ? null : at; light(at); },
  };
  if (patches) svg.append(patches.below);
  drawMatches(svg, query, c, frames, marks);
  if (patches) svg.append(...patches.above(controls).flat());
  const table = contributions(query, c, marks);
  marks.forEach((nodes, i) => nodes.forEach((node) => {
    node.addEventListener("pointerenter", () => controls.enter(i));
    node.addEventListener("pointerleave", controls.leave);
    node.addEventListener("focus", () => controls.enter(i));
    node.addEventListener("blur", controls.leave);
    node.addEventListener("click", () => { pinned = pinned === i ? null : i; light(pinned); });
  }));
  const hint = c.matches.length > 0 && h("p", { class: "hint" },
    `Each match moves some of the query\u2019s mass (100 % is the whole ${query.words.length ? "text" : "photo"}) onto a patch of the candidate; mass \u00d7 similarity is what it adds. Point at a match, tap it or use the arrow keys to single it out.`);
  const legend = patches && h("p", { class: "hint" }, patches.legend);
  return [header, h("div", { class: "why" }, h("div", {}, figure, patches && patches.readout, note, hint, legend), table)];
}

// Side by side, or one above the other on a phone; frames are where the two photos lie in the drawing.
function stage(query, c) {
  const high = narrow.matches ? 240 : 320, gap = narrow.matches ? 34 : 56;
  const [left, right] = [query.image, c.image].map((key) => high * data.sizes[key][0] / data.sizes[key][1]);
  const across = narrow.matches ? Math.max(left, right, 330) : left + gap + right, down = narrow.matches ? 2 * high + gap : high;
  const frames = narrow.matches
    ? [{ x: (across - left) / 2, y: 0, width: left, height: high }, { x: (across - right) / 2, y: high + gap, width: right, height: high }]
    : [{ x: 0, y: 0, width: left, height: high }, { x: left + gap, y: 0, width: right, height: high }];
  const svg = s("svg", { viewBox: `0 0 ${across} ${down}`, role: "group", "aria-label": `matched patches of ${query.name} and ${c.name}` },
    [query.image, c.image].map((key, side) => (side === 0 && query.words.length
      ? s("g", {}, drawWords(query, frames[0]))
      : s("image", { href: data.images[key], ...frames[side], preserveAspectRatio: "none" }))));
  const names = narrow.matches ? ["query above, candidate below"] : ["query", "candidate"];
  const figure = h("figure", { class: "stage" }, svg, h("figcaption", {}, names.map((name) => h("span", {}, name))));
  return { figure, svg, frames };
}

function drawMatches(svg, query, c, frames, marks) {
  const letter = narrow.matches ? 11 : 12;
  // A patch in several matches shows all their numbers and frames: corners instead of the middle, one inside the other.
  const shared = new Map();
  const side = (match, at) => at + ":" + match.slice(at * 4, at * 4 + 4);
  c.matches.forEach((match, i) => [0, 1].forEach((at) => shared.set(side(match, at), [...(shared.get(side(match, at)) || []), i])));
  const layers = c.matches.map((match, i) => {
    const place = (at) => {
      const { x, y, width, height } = frames[at];
      const box = match.slice(at * 4, at * 4 + 4), all = shared.get(side(match, at)), nth = all.indexOf(i), inset = 2.5 * nth;
      const whole = { x: x + box[0] * width, y: y + box[1] * height, width: (box[2] - box[0]) * width, height: (box[3] - box[1]) * height };
      const alone = at === 0 && query.words.length ? [0.08, 0.22] : [0.5, 0.5]; // beside the word
      const [u, v] = all.length === 1 ? alone : [[0.28, 0.28], [0.72, 0.72], [0.72, 0.28], [0.28, 0.72]][nth % 4];
      const size = Math.min(letter, whole.height / (all.length === 1 ? 1.3 : 2));
      return {
        whole, frame: { x: whole.x + inset, y: whole.y + inset, width: Math.max(2, whole.width - 2 * inset), height: Math.max(2, whole.height - 2 * inset) },
        text: s("text", { x: whole.x + u * whole.width, y: whole.y + v * whole.height, "font-size": size.toFixed(1) }, i + 1),
      };
    };
    const ends = [place(0), place(1)], [a, b] = ends.map((end) => end.whole);
    const line = frames[0].y === frames[1].y
      ? { x1: a.x + a.width, y1: a.y + a.height / 2, x2: b.x, y2: b.y + b.height / 2 }
      : { x1: a.x + a.width / 2, y1: a.y + a.height, x2: b.x + b.width / 2, y2: b.y };
    const group = (...nodes) => {
      marks[i].push(s("g", { "--c": COLOURS[i % COLOURS.length], "data-match": i + 1 }, nodes));
      return marks[i].at(-1);
    };
    return [
      group(["halo", "line", "hit line"].map((kind) => s("line", { ...line, class: kind }))),
      group(["halo", "box"].map((kind) => ends.map((end) => s("rect", { ...end.frame, class: kind }))),
        ends.map((end) => [end.text, s("rect", { ...end.whole, class: "hit" })])),
    ];
  });
  // Lines below boxes, so that no number is crossed out; the strongest match on top.
  for (const layer of [0, 1]) [...layers].reverse().forEach((groups) => svg.append(groups[layer]));
}

// The word of a text query that a match begins in; empty where the query is an image.
function wordOf(query, [x0, y0, x1, y1]) {
  if (!query.words.length) return "";
  const { rows, columns } = gridOf(query.image);
  return query.words[Math.floor((y0 + y1) / 2 * rows) * columns + Math.floor((x0 + x1) / 2 * columns)];
}

function contributions(query, c, marks) {
  const most = Math.max(1e-12, ...c.matches.map((m) => Math.abs(m[10] || 0)));
  const body = c.matches.map((m, i) => {
    const bar = h("i", { class: m[10] < 0 ? "minus" : "" });
    bar.style.width = 100 * Math.abs(m[10] || 0) / most + "%";
    const word = wordOf(query, m);
    const row = h("tr", { tabindex: i ? -1 : 0, "aria-label": `match ${i + 1}${word && ` of ${word}`}, contributes ${number(m[10], 4)}` },
      h("td", {}, h("span", { class: "pill", "--c": COLOURS[i % COLOURS.length] }, i + 1), word && ` ${word}`),
      h("td", {}, number(m[8], 3)), h("td", {}, m[9] === null ? "\u2013" : number(100 * m[9], 2) + " %"),
      h("td", {}, number(m[10], 4)), h("td", { class: "bar", "aria-hidden": "true" }, bar));
    marks[i].push(row);
    return row;
  });
  const line = (text, value, kind) => h("tr", { class: kind }, h("td", { colspan: 3 }, text), h("td", {}, value), h("td", {}));
  return h("table", { class: "matches" },
    h("thead", {}, h("tr", {}, ["match", "similarity", "mass", "adds"].map((text) => h("th", { scope: "col" }, text)), h("th", { class: "bar" }))),
    h("tbody", {
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); document.activeElement.click(); }
        else if (event.key === "ArrowUp" || event.key === "ArrowDown") arrows(event, body.map((row) => [row]));
      },
    }, body.length ? body : h("tr", {}, h("td", { colspan: 5, class: "soft" }, "No single match stands out."))),
    h("tfoot", {},
      line("remaining " + count(c.pairs, "patch pair", "patch pairs"), number(c.remaining, 4), ""),
      line("structural score", number(c.structural, 4), "total"),
      line(`+ ${data.weight} \u00d7 pooled ${number(c.pooled, 4)}`, signed(data.weight * c.pooled, 4), ""),
      line("final score", number(c.score, 4), "final")));
}
