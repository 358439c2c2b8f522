/* ---------- browsing: filters, the list of queries, one of them at a time ---------- */

function browser() {
  const queries = data.queries.map((query, index) => ({
    query, index, card: null,
    text: [query, ...query.candidates].flatMap((item) => [item.name, item.label]).join("\n").toLowerCase(),
  }));
  const is = (kind) => ({ query }) => outcome(query) === kind;
  const choices = [
    ["All", () => true],
    ...(data.queries.some(judged) ? [["Got better", is("better")], ["Got worse", is("worse")], ["Still wrong", is("wrong")]] : []),
    ["First hit changed", ({ query }) => first(query, "before") !== first(query, "after")],
  ];
  let chosen = 0, current = null, listed = queries;

  const stage = h("div", { class: "shown" });
  const empty = h("p", { class: "empty", hidden: true, role: "status" }, "No query matches this filter.");
  const place = h("output", { class: "place", "aria-live": "polite" });
  const step = (by) => { const at = listed.indexOf(current) + by; if (listed[at]) show(listed[at]); return Boolean(listed[at]); };
  const arrow = (by, sign, name) => h("button", { type: "button", class: "step", "aria-label": name, title: name + ", arrow key", onclick: () => step(by) }, sign);
  const back = arrow(-1, "\u2190", "previous query"), forth = arrow(1, "\u2192", "next query");
  const signs = { better: ["\u25b2", "right"], worse: ["\u25bc", "wrong"], wrong: ["\u2715", "wrong"] };
  const words = { better: "got better", worse: "got worse", wrong: "still wrong", same: "unchanged", unknown: "" };
  const entries = queries.map((item) => {
    const kind = outcome(item.query), [sign, tone] = signs[kind] || ["", ""];
    return h("button", {
      type: "button", class: "entry", title: item.query.name, "aria-label": [`query ${item.index + 1}`, item.query.name, words[kind]].filter(Boolean).join(", "),
      onclick: () => show(item),
    }, image(item.query.image, ""), sign && h("span", { class: "sign " + tone, "aria-hidden": "true" }, sign));
  });
  const strip = h("div", { class: "strip", role: "group", "aria-label": "queries" }, entries);

  function show(item, link = true) {
    current = item;
    item.card = item.card || makeCard(item.query, item.index);
    stage.replaceChildren(item.card.node);
    entries.forEach((node, i) => {
      node.setAttribute("aria-current", String(i === item.index));
      node.tabIndex = i === item.index ? 0 : -1;
    });
    const own = entries[item.index];
    strip.scrollLeft = own.offsetLeft - strip.offsetLeft - (strip.clientWidth - own.offsetWidth) / 2;
    if (strip.contains(document.activeElement)) own.focus({ preventScroll: true });
    mark_place();
    // Not on opening: a browser scrolls to what the address names.
    if (link) try { history.replaceState(null, "", "#q" + (item.index + 1)); } catch { /* the address stays as it is */ }
  }

  function mark_place() {
    const at = listed.indexOf(current);
    place.textContent = at < 0 ? "0 / " + listed.length : `${at + 1} / ${listed.length}`;
    back.disabled = at <= 0;
    forth.disabled = at < 0 || at === listed.length - 1;
  }

  function apply(link = true) {
    const words = search.value.trim().toLowerCase();
    listed = queries.filter((item) => choices[chosen][1](item) && item.text.includes(words));
    entries.forEach((node, i) => { node.hidden = !listed.includes(queries[i]); });
    buttons.forEach((node, i) => node.setAttribute("aria-pressed", String(i === chosen)));
    empty.hidden = listed.length > 0;
    stage.hidden = !listed.length;
    if (listed.length && !listed.includes(current)) show(listed[0], link);
    else mark_place();
  }

  const search = h("input", { type: "search", placeholder: "Find a file or class", "aria-label": "find a file or class by name", oninput: () => apply() });
  const buttons = choices.map(([name, test], i) => h("button", { type: "button", onclick: () => { chosen = i; apply(); } },
    name, h("b", {}, queries.filter(test).length)));

  const linked = () => queries[Number((/^#q(\d+)$/.exec(location.hash) || [])[1]) - 1];
  addEventListener("hashchange", () => { const item = linked(); if (item && item !== current) { chosen = 0; search.value = ""; apply(); show(item); } });
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest("input, textarea, select")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && step(by)) event.preventDefault();
  });
  // A swipe that begins where nothing else scrolls or is tapped.
  let swipe = null;
  stage.addEventListener("touchstart", (event) => {
    const [finger, second] = event.touches;
    swipe = second || event.target.closest(".ladder, .stage, .matches") ? null : finger;
  }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!swipe) return;
    const [finger] = event.changedTouches, x = finger.clientX - swipe.clientX, y = finger.clientY - swipe.clientY;
    swipe = null;
    if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) step(x < 0 ? 1 : -1);
  }, { passive: true });
  // On paper every query of the list is shown.
  addEventListener("beforeprint", () => stage.replaceChildren(...listed.map((item) => (item.card = item.card || makeCard(item.query, item.index)).node)));
  addEventListener("afterprint", () => { if (current) show(current); });
  narrow.addEventListener("change", () => queries.forEach((item) => { if (item.card) item.card.draw(); }));

  return {
    nodes: [
      h("nav", { class: "tools", "aria-label": "filters and queries" },
        h("div", { class: "choices" }, buttons), search, h("div", { class: "pager" }, back, place, forth)),
      strip, empty, stage],
    start: () => { const item = linked(); apply(false); if (item) show(item); },
  };
}

const list = browser();
root.append(...head().filter(Boolean), ...(data.queries.length ? list.nodes : []));
list.start();
