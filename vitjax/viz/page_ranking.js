/* ---------- one query ---------- */

const ranked = (query, key) => query.candidates.filter((c) => c[key] !== null && c[key] <= data.ranks).sort((a, b) => a[key] - b[key]);
const first = (query, key) => query.candidates.find((c) => c[key] === 1) || null;
const firstRight = (query, key) => { const c = first(query, key); return c ? c.relevant : null; };

// Where the first relevant image stands; ranks beyond those shown count as one.
const best = (query, key) => Math.min(data.ranks + 1, ...query.candidates.filter((c) => c.relevant && c[key] !== null).map((c) => c[key]));
const judged = (query) => query.candidates.some((c) => c.relevant !== null);

function outcome(query) {
  if (!judged(query)) return "unknown";
  const before = best(query, "before"), after = best(query, "after");
  return after < before ? "better" : after > before ? "worse" : after > 1 ? "wrong" : "same";
}

function verdict(query) {
  if (!judged(query)) return null;
  const before = firstRight(query, "before"), after = firstRight(query, "after");
  const place = (key) => { const rank = best(query, key); return rank > data.ranks ? "beyond " + data.ranks : rank; };
  const text = before && after ? "first hit relevant in both" : after ? "first hit relevant after reranking" : before ? "first hit relevant before only"
    : outcome(query) === "wrong" ? "first hit not relevant in either"
    : `first relevant image ${outcome(query) === "better" ? "up" : "down"}: ${place("before")} to ${place("after")}`;
  return h("span", { class: "verdict " + (before && after ? "soft" : verdictWord(after)) }, mark(after) + " " + text);
}

function move(c) {
  if (c.before === null) return ["new", "new", "up"];
  if (c.after === null || c.before === c.after) return ["", "same rank", ""];
  const by = c.before - c.after;
  return by > 0 ? ["\u25b2" + by, "up " + by, "up"] : ["\u25bc" + -by, "down " + -by, "down"];
}

function thumb(card, c, key, digits) {
  const [badge, moved, tone] = key === "after" ? move(c) : ["", "", ""];
  const score = key === "before" ? c.pooled : c.score;
  const label = ["rank " + c[key] + (key === "before" ? " before" : " after"), c.name, c.label,
    score === null ? "not reranked" : "score " + number(score, 3), verdictWord(c.relevant), moved].filter(Boolean).join(", ");
  return h("button", {
    class: "thumb", type: "button", title: c.name, "aria-label": label, "aria-pressed": "false", tabindex: "-1",
    onclick: () => card.select(c), onpointerenter: () => card.light(c), onpointerleave: () => card.light(null),
    onfocus: () => card.light(c), onblur: () => card.light(null),
  },
  h("span", { class: "frame" + (c.relevant === null ? "" : " is-" + verdictWord(c.relevant)) }, image(c.image, c.name),
    c.relevant !== null && h("span", { class: "mark", "aria-hidden": "true" }, mark(c.relevant))),
  h("span", { class: "caption" }, h("b", {}, c[key]), h("span", { class: "move " + tone }, badge),
    h("span", { class: "score" }, number(score, digits)), h("span", { class: "name" }, base(c.name))));
}

function slopes(card, before, after, columns) {
  const middle = (list, c) => { const at = list.indexOf(c); return at < 0 ? null : 100 * (at + 0.5) / columns; };
  const svg = s("svg", { class: "slopes", viewBox: "0 0 100 44", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const c of new Set([...before, ...after])) {
    const x0 = middle(before, c), x1 = middle(after, c), far = x0 === null || x1 === null;
    // From or to a rank that is not shown: a short stub.
    const line = x0 === null ? `M${x1},27 V41` : x1 === null ? `M${x0},3 V17` : `M${x0},3 C${x0},24 ${x1},20 ${x1},41`;
    const path = s("path", { d: line,
      class: (c.relevant ? "good" : "") + (far ? " far" : "") });
    card.links.set(c, [path]);
    svg.append(path);
  }
  return svg;
}

// Moves the focus within rows of elements; an arrow that leads nowhere is left to the page.
function arrows(event, rows) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const at = rows.findIndex((row) => row.includes(document.activeElement));
  if (!step || at < 0) return;
  const row = rows[at + step[0]], from = rows[at].indexOf(document.activeElement);
  if (!row || (step[1] && !row[from + step[1]])) return;
  const column = Math.min(row.length - 1, from + step[1]);
  event.preventDefault();
  row[column].focus();
}

function makeCard(query, index) {
  const before = ranked(query, "before"), after = ranked(query, "after");
  const columns = Math.max(before.length, after.length, 1);
  const card = { links: new Map(), buttons: new Map(), pane: h("div", { class: "pane" }), chosen: null };

  card.light = (c) => {
    for (const nodes of [card.links, card.buttons]) nodes.forEach((each, key) => each.forEach((node) => node.classList.toggle("lit", key === c)));
  };
  card.draw = () => card.pane.replaceChildren(...(card.chosen ? why(query, card.chosen) : [h("p", { class: "soft" }, "No candidates.")]));
  card.select = (c) => {
    card.chosen = c;
    card.buttons.forEach((nodes, key) => nodes.forEach((node) => node.setAttribute("aria-pressed", String(key === c))));
    card.draw();
  };

  const rowOf = (list, key) => list.map((c) => {
    const node = thumb(card, c, key, columns > 7 ? 2 : 3);
    card.buttons.set(c, [...(card.buttons.get(c) || []), node]);
    return node;
  });
  const above = rowOf(before, "before"), below = rowOf(after, "after");
  const grid = (nodes, key, name) => fill(h("div", { class: "row " + key, role: "group", "aria-label": name }), {}, nodes);
  const ladder = h("div", { "--columns": columns, onkeydown: (event) => arrows(event, [above, below].filter((row) => row.length)) },
    h("p", { class: "overline" }, "Before: pooled search, by cosine"),
    grid(above, "before", "ranking before"),
    slopes(card, before, after, columns),
    grid(below, "after", "ranking after"),
    h("p", { class: "overline" }, `After: reranked, by structural + ${data.weight} \u00d7 pooled`));
  for (const row of [above, below]) {
    row.forEach((node) => { node.parentNode.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`; });
    if (row[0]) row[0].tabIndex = 0;
    row.forEach((node) => node.addEventListener("focus", () => row.forEach((other) => { other.tabIndex = other === node ? 0 : -1; })));
  }

  card.node = h("section", { class: "query panel", id: "q" + (index + 1), "aria-label": "query " + (index + 1) },
    h("header", {}, h("a", { href: "#q" + (index + 1), title: "link to this query" }, index + 1),
      h("h2", {}, h("span", { class: "name clamp", title: query.name }, query.name)), verdict(query)),
    h("div", { class: "compare" },
      h("figure", { class: "photo" }, query.words.length ? wordsImage(query) : image(query.image, "query photo " + query.name),
        h("figcaption", {}, "Query", query.label && [": ", h("span", { class: "name" }, query.label)])),
      h("div", { class: "ladder" }, ladder)),
    card.pane);
  card.select(first(query, "after") || after[0] || before[0] || null);
  return card;
}
