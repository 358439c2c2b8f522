"use strict";
// Everything on the page is made here with createElement and text nodes: names from disk are never parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("report");
  const SVG = root.querySelector("svg").namespaceURI;
  const narrow = matchMedia("(max-width: 700px)");
  // The same twelve as in figures.py: bright enough for photos, neighbours far apart.
  const COLOURS = ["#ffd400", "#4cc9ff", "#ff7a59", "#7ee081", "#d8a0ff", "#ff9ecf",
    "#00d5c0", "#ffb13d", "#a8c0ff", "#c6e84a", "#ff6f91", "#9be7ff"];

  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key.startsWith("--")) node.style.setProperty(key, value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) node.append(child);
    }
    return node;
  }
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  const number = (value, digits) => (value === null ? "\u2013" : value.toFixed(digits).replace("-", "\u2212"));
  const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);
  const percent = (value) => (value === null ? "\u2013" : number(100 * value, 1) + " %");
  const milliseconds = (value) => (value === null ? "\u2013" : value.toPrecision(value < 1 ? 1 : value < 100 ? 2 : 3) * 1 + " ms");
  const count = (value, one, many) => value.toLocaleString("en") + " " + (value === 1 ? one : many);
  const picture = (key, alt) => h("img", {
    src: data.images[key], alt, decoding: "async", width: data.sizes[key][0], height: data.sizes[key][1],
  });
  const base = (name) => name.split("/").pop() || name;
  const mark = (right) => (right ? "\u2713" : "\u2715");
  const verdictWord = (right) => (right === null ? "" : right ? "right" : "wrong");

  /* ---------- head ---------- */

  function metrics() {
    if (!data.metrics.length) {
      return [h("h2", {}, "Metrics"), h("p", { class: "soft" }, "No labels were given, so nothing is measured. The rankings below can be judged by eye.")];
    }
    const row = (m) => {
      const gain = m.before === null || m.after === null ? null : m.after - m.before;
      const tone = gain === null || Math.abs(gain) < 5e-4 ? "soft" : gain > 0 ? "right" : "wrong";
      return h("tr", {},
        h("td", {}, m.name), h("td", {}, percent(m.before)), h("td", {}, percent(m.after)),
        h("td", { class: tone }, gain === null ? "\u2013" : [signed(100 * gain, 1), h("small", {}, " pts")]),
        h("td", { class: "range " + tone }, gain === null ? null : dumbbell(m.before, m.after)));
    };
    return [
      h("h2", {}, "Pooled search against reranked"),
      h("table", { class: "metrics" },
        h("thead", {}, h("tr", {}, ["", "pooled", "reranked", "change"].map((text) => h("th", { scope: "col" }, text)),
          h("th", { class: "range", scope: "col" }, "0 to 100 %"))),
        h("tbody", {}, data.metrics.map(row))),
    ];
  }

  function dumbbell(before, after) {
    const line = (a, b, attributes) => s("line", { x1: 100 * a + "%", x2: 100 * b + "%", y1: 6, y2: 6, ...attributes });
    return s("svg", { "aria-hidden": "true" },
      line(0, 1, { stroke: "var(--line)", "stroke-width": 2 }),
      line(before, after, { stroke: "currentColor", "stroke-width": 3 }),
      s("circle", { cx: 100 * before + "%", cy: 6, r: 4, fill: "var(--card)", stroke: "var(--soft)", "stroke-width": 2 }),
      s("circle", { cx: 100 * after + "%", cy: 6, r: 5, fill: "currentColor" }));
  }

  const pairs = (rows) => h("dl", { class: "pairs" }, rows.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]));

  function times() {
    if (!data.milliseconds.length) return null;
    const total = data.milliseconds.reduce((sum, [, value]) => sum + (value || 0), 0);
    return h("section", {},
      h("h2", {}, milliseconds(total), " per query"),
      h("div", { class: "stack", "aria-hidden": "true" }, data.milliseconds.map(([, value]) => {
        const part = h("i");
        part.style.flexGrow = value || 0;
        return part;
      })),
      h("dl", { class: "times" }, data.milliseconds.map(([name, value]) =>
        h("div", {}, h("dt", {}, name), h("dd", {}, milliseconds(value))))));
  }

  function head() {
    const skipped = data.skipped.length > 0 && h("details", {},
      h("summary", {}, count(data.skipped.length, "file was", "files were"), " left out"),
      h("ul", { class: "skipped" }, data.skipped.map(([name, reason]) =>
        h("li", {}, h("span", { class: "name" }, name), h("span", { class: "soft" }, ": ", reason)))));
    return [
      h("header", {},
        h("h1", { class: "name" }, data.title),
        h("p", { class: "subtitle" }, data.subtitle),
        data.random && h("p", { class: "banner", role: "note" }, h("strong", {}, "Random weights. "),
          "The backbone was not trained, so scores and matches below mean nothing; give the program pretrained weights."),
        data.notes.map((line) => h("p", { class: "banner", role: "note" }, line))),
      h("div", { class: "summary" },
        h("div", { class: "panel" }, h("section", {}, metrics()), times()),
        h("div", { class: "panel" },
          h("section", {}, h("h2", {}, "Settings"), pairs(data.settings)),
          h("section", {},
            h("details", {}, h("summary", {}, "Device and versions"), pairs(data.environment)), skipped))),
    ];
  }

  /* ---------- one query ---------- */

  const ranked = (query, key) => query.candidates.filter((c) => c[key] !== null && c[key] <= data.ranks).sort((a, b) => a[key] - b[key]);
  const first = (query, key) => query.candidates.find((c) => c[key] === 1) || null;
  const firstRight = (query, key) => { const c = first(query, key); return c ? c.right : null; };

  function verdict(query) {
    const before = firstRight(query, "before"), after = firstRight(query, "after");
    if (before === null || after === null) return null;
    const text = before === after ? (after ? "\u2713 first hit right both times" : "\u2715 first hit wrong both times")
      : after ? "\u2713 first hit corrected" : "\u2715 first hit lost";
    return h("span", { class: "verdict " + (before && after ? "soft" : verdictWord(after)) }, text);
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
      score === null ? "not reranked" : "score " + number(score, 3), verdictWord(c.right), moved].filter(Boolean).join(", ");
    return h("button", {
      class: "thumb", type: "button", title: c.name, "aria-label": label, "aria-pressed": "false", tabindex: "-1",
      onclick: () => card.select(c), onpointerenter: () => card.light(c), onpointerleave: () => card.light(null),
      onfocus: () => card.light(c), onblur: () => card.light(null),
    },
    h("span", { class: "frame" + (c.right === null ? "" : " is-" + verdictWord(c.right)) }, picture(c.image, c.name),
      c.right !== null && h("span", { class: "mark", "aria-hidden": "true" }, mark(c.right))),
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
        class: (c.right ? "good" : "") + (far ? " far" : "") });
      card.links.set(c, [path]);
      svg.append(path);
    }
    return svg;
  }

  function arrows(event, rows) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const at = rows.findIndex((row) => row.includes(document.activeElement));
    if (!step || at < 0) return;
    const row = rows[at + step[0]] || rows[at];
    const column = Math.max(0, Math.min(row.length - 1, rows[at].indexOf(document.activeElement) + step[1]));
    event.preventDefault();
    row[column].focus();
  }

  function makeCard(query, index) {
    const before = ranked(query, "before"), after = ranked(query, "after");
    const columns = Math.max(before.length, after.length, 1);
    const card = { query, index, links: new Map(), buttons: new Map(), pane: h("div", { class: "pane" }), chosen: null, drawn: false };

    card.light = (c) => {
      for (const [key, nodes] of card.links) nodes.forEach((node) => node.classList.toggle("lit", key === c));
      for (const [key, nodes] of card.buttons) nodes.forEach((node) => node.classList.toggle("lit", key === c));
    };
    card.draw = () => {
      card.drawn = true;
      card.pane.replaceChildren(...(card.chosen ? why(query, card.chosen) : [h("p", { class: "soft" }, "No candidates.")]));
    };
    card.select = (c) => {
      card.chosen = c;
      for (const [key, nodes] of card.buttons) nodes.forEach((node) => node.setAttribute("aria-pressed", String(key === c)));
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
        h("figure", { class: "photo" }, picture(query.image, "query photo " + query.name),
          h("figcaption", {}, "Query", query.label && [": ", h("span", { class: "name" }, query.label)])),
        h("div", { class: "ladder" }, ladder)),
      card.pane);
    card.chosen = first(query, "after") || after[0] || before[0] || null;
    (card.buttons.get(card.chosen) || []).forEach((node) => node.setAttribute("aria-pressed", "true"));
    return card;
  }

  /* ---------- why: matched patches ---------- */

  function why(query, c) {
    const rank = c.after !== null ? "Rank " + c.after + " after reranking" : "Rank " + c.before + " before reranking";
    const from = c.after !== null && c.before !== null && c.before !== c.after ? ", was " + c.before : "";
    const header = h("header", {},
      h("h3", {}, rank + from),
      c.right !== null && h("span", { class: verdictWord(c.right) }, mark(c.right) + " " + verdictWord(c.right)),
      h("span", { class: "soft name clamp", title: c.name }, c.name, c.label && ` (${c.label})`));
    const note = c.note && h("p", { class: "hint" }, c.note);
    if (c.structural === null) {
      return [header, h("p", { class: "soft" }, `Not reranked: it keeps its place by pooled cosine ${number(c.pooled, 4)}.`), note].filter(Boolean);
    }
    const marks = c.matches.map(() => []);
    const figure = stage(query, c, marks);
    let pinned = null;
    const light = (at) => {
      figure.classList.toggle("busy", at !== null);
      marks.forEach((nodes, i) => nodes.forEach((node) => node.classList.toggle("lit", i === at)));
    };
    const table = contributions(c, marks);
    marks.forEach((nodes, i) => nodes.forEach((node) => {
      node.addEventListener("pointerenter", () => light(i));
      node.addEventListener("pointerleave", () => light(pinned));
      node.addEventListener("focus", () => light(i));
      node.addEventListener("blur", () => light(pinned));
      node.addEventListener("click", () => { pinned = pinned === i ? null : i; light(pinned); });
    }));
    const hint = c.matches.length > 0 && h("p", { class: "hint" },
      "Each match moves some of the query\u2019s mass (100 % is the whole photo) onto a patch of the candidate; mass \u00d7 similarity is what it adds. Point at a match, tap it or use the arrow keys to single it out.");
    return [header, h("div", { class: "why" }, h("div", {}, figure, note, hint), table)];
  }

  function stage(query, c, marks) {
    const high = narrow.matches ? 150 : 320, gap = narrow.matches ? 34 : 56, letter = narrow.matches ? 9 : 12;
    const wide = (key) => high * data.sizes[key][0] / data.sizes[key][1];
    const left = wide(query.image), right = wide(c.image), total = left + gap + right;
    const svg = s("svg", { viewBox: `0 0 ${total} ${high}`, role: "img", "aria-label": `matched patches of ${query.name} and ${c.name}` },
      s("image", { href: data.images[query.image], x: 0, y: 0, width: left, height: high, preserveAspectRatio: "none" }),
      s("image", { href: data.images[c.image], x: left + gap, y: 0, width: right, height: high, preserveAspectRatio: "none" }));
    // A patch in several matches shows all their numbers and frames: corners instead of the middle, one inside the other.
    const shared = new Map();
    const side = (match, at) => at + ":" + match.slice(at * 4, at * 4 + 4);
    c.matches.forEach((match, i) => [0, 1].forEach((at) => shared.set(side(match, at), [...(shared.get(side(match, at)) || []), i])));
    const layers = c.matches.map((match, i) => {
      const place = (at, x, width) => {
        const box = match.slice(at * 4, at * 4 + 4), all = shared.get(side(match, at)), nth = all.indexOf(i), inset = 2.5 * nth;
        const whole = { x: x + box[0] * width, y: box[1] * high, width: (box[2] - box[0]) * width, height: (box[3] - box[1]) * high };
        const [u, v] = all.length === 1 ? [0.5, 0.5] : [[0.28, 0.28], [0.72, 0.72], [0.72, 0.28], [0.28, 0.72]][nth % 4];
        const size = Math.min(letter, whole.height / (all.length === 1 ? 1.3 : 2));
        return {
          whole, frame: { x: whole.x + inset, y: whole.y + inset, width: Math.max(2, whole.width - 2 * inset), height: Math.max(2, whole.height - 2 * inset) },
          text: s("text", { x: whole.x + u * whole.width, y: whole.y + v * whole.height, "font-size": size.toFixed(1) }, i + 1),
        };
      };
      const ends = [place(0, 0, left), place(1, left + gap, right)], [a, b] = ends.map((end) => end.whole);
      const line = { x1: a.x + a.width, y1: a.y + a.height / 2, x2: b.x, y2: b.y + b.height / 2 };
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
    return h("figure", { class: "stage" }, svg, h("figcaption", {}, h("span", {}, "query"), h("span", {}, "candidate")));
  }

  function contributions(c, marks) {
    const most = Math.max(1e-12, ...c.matches.map((m) => Math.abs(m[10] || 0)));
    const body = c.matches.map((m, i) => {
      const bar = h("i", { class: m[10] < 0 ? "minus" : "" });
      bar.style.width = 100 * Math.abs(m[10] || 0) / most + "%";
      const row = h("tr", { tabindex: i ? -1 : 0, "aria-label": `match ${i + 1}, contributes ${number(m[10], 4)}` },
        h("td", {}, h("span", { class: "pill", "--c": COLOURS[i % COLOURS.length] }, i + 1)),
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
          else arrows(event, body.map((row) => [row]));
        },
      }, body.length ? body : h("tr", {}, h("td", { colspan: 5, class: "soft" }, "No single match stands out."))),
      h("tfoot", {},
        line("remaining " + count(c.pairs, "patch pair", "patch pairs"), number(c.remaining, 4), ""),
        line("structural score", number(c.structural, 4), "total"),
        line(`+ ${data.weight} \u00d7 pooled ${number(c.pooled, 4)}`, signed(data.weight * c.pooled, 4), ""),
        line("final score", number(c.score, 4), "final")));
  }

  /* ---------- filters ---------- */

  function tools(cards) {
    const known = (key) => (card) => firstRight(card.query, key) !== null;
    const choices = [
      ["All", () => true],
      ["First hit changed", (card) => first(card.query, "before") !== first(card.query, "after")],
      cards.some(known("before")) && ["Wrong before", (card) => firstRight(card.query, "before") === false],
      cards.some(known("after")) && ["Wrong after", (card) => firstRight(card.query, "after") === false],
    ].filter(Boolean);
    const empty = h("p", { class: "empty", hidden: true, role: "status" }, "No query matches this filter.");
    let chosen = 0;
    const apply = () => {
      const words = search.value.trim().toLowerCase();
      let shown = 0;
      for (const card of cards) {
        const keep = choices[chosen][1](card) && card.text.includes(words);
        card.node.hidden = !keep;
        shown += keep;
      }
      empty.hidden = shown > 0;
      buttons.forEach((node, i) => node.setAttribute("aria-pressed", String(i === chosen)));
    };
    const search = h("input", { type: "search", placeholder: "Find a file or class", "aria-label": "find a file or class by name", oninput: apply });
    const buttons = choices.map(([name, test], i) => h("button", { type: "button", "aria-pressed": String(i === 0), onclick: () => { chosen = i; apply(); } },
      name, h("b", {}, cards.filter(test).length)));
    return [h("nav", { class: "tools", "aria-label": "filters" }, h("div", { class: "choices" }, buttons), search), empty];
  }

  /* ---------- page ---------- */

  const cards = data.queries.map(makeCard);
  for (const card of cards) {
    card.text = [card.query, ...card.query.candidates].flatMap((item) => [item.name, item.label]).join("\n").toLowerCase();
  }
  root.append(...head().filter(Boolean), ...tools(cards), ...cards.map((card) => card.node));

  // A pane is drawn when its query comes near the screen, or goes to paper.
  const byNode = new Map(cards.map((card) => [card.node, card]));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      byNode.get(entry.target).draw();
    }
  }, { rootMargin: "600px" });
  cards.forEach((card) => near.observe(card.node));
  addEventListener("beforeprint", () => cards.filter((card) => !card.drawn && !card.node.hidden).forEach((card) => card.draw()));
  narrow.addEventListener("change", () => cards.filter((card) => card.drawn).forEach((card) => card.draw()));
})();
