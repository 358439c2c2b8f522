/* ---------- head ---------- */

function metrics() {
  if (!data.metrics.length) {
    return [h("h2", {}, "Metrics"), h("p", { class: "soft" }, "No labels were given, so nothing is measured. The rankings below can be judged by eye.")];
  }
  const row = (m) => {
    const gain = m.before === null || m.after === null ? null : m.after - m.before;
    const [before, after, change] = m.ends.map((pair) => pair && pair[0] !== null && h("small", { class: "ends" },
      number(100 * pair[0], 1), " to ", number(100 * pair[1], 1)));
    const tone = gain === null || Math.abs(gain) < 5e-4 ? "soft" : gain > 0 ? "right" : "wrong";
    return h("tr", {},
      h("td", {}, m.name), h("td", {}, percent(m.before), before), h("td", {}, percent(m.after), after),
      h("td", { class: tone }, gain === null ? "\u2013" : [signed(100 * gain, 1), h("small", {}, " pts")], change),
      h("td", { class: "range " + tone }, gain === null ? null : dumbbell(m.before, m.after)));
  };
  return [
    h("h2", {}, "Pooled search against reranked"),
    h("table", { class: "metrics" },
      h("thead", {}, h("tr", {}, ["", "pooled", "reranked", "change"].map((text) => h("th", { scope: "col" }, text)),
        h("th", { class: "range", scope: "col" }, "0 to 100 %"))),
      h("tbody", {}, data.metrics.map(row))),
    data.metrics.some((m) => m.ends.some(Boolean)) && h("p", { class: "soft ends" },
      "Below each figure: its 95 % interval, from resampling the queries."),
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

// Further fields: text, names with values, or a table whose first row is its header.
const content = (kind, said) => kind === "text" ? h("p", { class: "soft fact" }, said) : kind === "pairs" ? pairs(said)
  : h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, (said[0] || []).map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, said.slice(1).map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));

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
      h("div", { class: "panel" }, h("section", {}, metrics()), times(),
        data.explained && h("section", {}, h("h2", {}, "Faithfulness of the explanations"), h("p", { class: "soft fact" }, data.explained)),
        data.sections.map(([title, kind, said]) => h("section", {}, h("h2", { class: "name" }, title), content(kind, said)))),
      h("div", { class: "panel" },
        h("section", {}, h("h2", {}, "Settings"), pairs(data.settings)),
        h("section", {},
          h("details", {}, h("summary", {}, "Device and versions"), pairs(data.environment)), skipped))),
  ];
}
