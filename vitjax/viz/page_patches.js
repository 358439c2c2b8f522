/* ---------- every patch: where its mass went, and what it added ---------- */

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
function words(text) {
  const raw = bytes(text);
  return Uint16Array.from({ length: raw.length / 2 }, (_, i) => raw[2 * i] | (raw[2 * i + 1] << 8));
}

// The inverse of PlanView.encode in plans.py.
function decode(plan) {
  const all = words(plan.words);
  let at = 0;
  const take = (count) => all.subarray(at, at += count);
  const masses = (count) => Array.from(take(count), (x) => x * plan.unit);
  const gains = (count) => Array.from(take(count), (x) => (x > 32767 ? x - 65536 : x) * plan.gain);
  const weights = plan.size.map((count, side) => (plan.weights[side] === null ? masses(count) : Array(count).fill(plan.weights[side])));
  const sides = plan.size.map((count, side) => ({ weight: weights[side], mass: masses(count), adds: gains(count) }));
  const counts = take(plan.size[0]), largest = masses(plan.size[0]);
  const raw = bytes(plan.entries), length = raw.length / 3, entries = [];
  let i = 0;
  counts.forEach((count, row) => {
    for (let column = -1, last = i + count; i < last; i++) {
      column += raw[i] === 255 ? 255 : raw[i] + 1;
      const mass = (raw[length + i] / 255) ** 2 * largest[row], gain = ((raw[2 * length + i] << 24) >> 24) * plan.step;
      if (raw[i] !== 255) entries.push({ tokens: [row, column], mass, adds: mass * gain });
    }
  });
  const flows = (side, token) => entries
    .flatMap(({ tokens, mass, adds }) => (tokens[side] === token ? [{ token: tokens[1 - side], mass, adds }] : []))
    .sort((a, b) => b.mass - a.mass);
  const moved = sides[0].mass.reduce((sum, x) => sum + x, 0), kept = entries.reduce((sum, entry) => sum + entry.mass, 0);
  return { sides, entries, flows, kept: moved > 0 ? Math.min(1, kept / moved) : 1 };
}

const grids = new Map();
function gridOf(key) {
  if (!grids.has(key)) {
    const { grid, owner, fine, dropped } = data.patches[key];
    const own = owner === null ? Array.from({ length: grid[0] * grid[1] }, (_, i) => i) : Array.from(words(owner), (x) => x - 1);
    const cells = new Map();
    own.forEach((token, cell) => { if (token >= 0) cells.set(token, [...(cells.get(token) || []), cell]); });
    grids.set(key, { rows: grid[0], columns: grid[1], own, cells, fine, dropped: dropped === null ? [] : Array.from(words(dropped)) });
  }
  return grids.get(key);
}

const cellBox = (cell, rows, columns, frame) => ({
  x: frame.x + (cell % columns) * frame.width / columns, y: frame.y + Math.floor(cell / columns) * frame.height / rows,
  width: frame.width / columns, height: frame.height / rows,
});

// Lines along the sides of cells where `border(cell, neighbour)` holds; the neighbour is -1 beyond the edge.
function borders(cells, grid, frame, border) {
  const parts = [];
  for (const cell of cells) {
    const { x, y, width, height } = cellBox(cell, grid.rows, grid.columns, frame), column = cell % grid.columns;
    const beside = [column ? cell - 1 : -1, column < grid.columns - 1 ? cell + 1 : -1, cell - grid.columns, cell + grid.columns];
    const lines = [`M${x},${y}v${height}`, `M${x + width},${y}v${height}`, `M${x},${y}h${width}`, `M${x},${y + height}h${width}`];
    beside.forEach((other, i) => { if (border(cell, other >= 0 && other < grid.own.length ? other : -1)) parts.push(lines[i]); });
  }
  return parts.join("");
}

const SIDES = ["Query", "Candidate"];
const kindOf = (query, side) => (side === 0 && query.words.length ? "word" : "patch");

// The words of a text query in their cells; the page's fonts know more letters than the card that figures show.
function drawWords(query, frame) {
  const grid = gridOf(query.image);
  return query.words.map((word, cell) => {
    const { x, y, width, height } = cellBox(cell, grid.rows, grid.columns, frame);
    const size = Math.min(18, 0.5 * height, 1.6 * (width - 8) / Math.max(1, [...word].length));
    return [s("rect", { x, y, width, height, class: "wordcell" }),
      s("text", { x: x + width / 2, y: y + height / 2, "font-size": size.toFixed(1), class: "word" }, word)];
  }).flat();
}

function wordsImage(query) {
  const [width, height] = data.sizes[query.image];
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "query text " + query.name },
    drawWords(query, { x: 0, y: 0, width, height }));
}

// Two layers of the image, below and above the matches, and a line of text that says what is pointed at.
function patchLayers(query, c, frames) {
  const plan = decode(c.plan), keys = [query.image, c.image], layers = keys.map(gridOf);
  // Listed matches are known to more digits: the line of text and the table say the same.
  const tokenAt = (side, [x0, y0, x1, y1]) => {
    const { rows, columns, own } = layers[side];
    return own[Math.floor((y0 + y1) / 2 * rows) * columns + Math.floor((x0 + x1) / 2 * columns)];
  };
  const listed = new Map(c.matches.map((match) => [[0, 1].map((side) => tokenAt(side, match.slice(side * 4, side * 4 + 4))).join(), match]));
  for (const entry of plan.entries) {
    const match = listed.get(entry.tokens.join());
    if (match) [entry.mass, entry.adds] = match.slice(9, 11);
  }
  const share = (x) => number(100 * x, 2) + " %";
  const still = frames.map((frame, side) => {
    const grid = layers[side], { weight, mass } = plan.sides[side];
    const gone = grid.dropped.map((cell) => s("rect", { ...cellBox(cell, ...grid.fine, frame), class: "dropped" }));
    const rest = [...grid.cells].flatMap(([token, cells]) => {
      const idle = weight[token] > 0 ? 1 - mass[token] / weight[token] : 0;
      return idle < 0.02 ? [] : cells.map((cell) => s("rect", { ...cellBox(cell, grid.rows, grid.columns, frame), class: "rest", "fill-opacity": (0.6 * idle).toFixed(3) }));
    });
    const merged = [...grid.cells.values()].filter((cells) => cells.length > 1).flat();
    const line = borders(merged, grid, frame, (cell, other) => other < 0 || grid.own[cell] !== grid.own[other]);
    return [gone, rest, line && s("path", { d: line, class: "merged" })];
  });
  const heat = s("g", { class: "heat" });
  const picked = s("g", { class: "picked" });
  const readout = h("div", { class: "readout", role: "status", "aria-live": "polite" });

  const cellOf = (side, token) => (layers[side].cells.get(token) || [-1])[0];
  const where = (side, token) => {
    const { cells, columns } = layers[side], own = cells.get(token) || [];
    if (!own.length) return "a token without a place";
    if (kindOf(query, side) === "word") return `\u201c${query.words[own[0]]}\u201d`;
    return `row ${Math.floor(own[0] / columns) + 1}, column ${own[0] % columns + 1}` + (own.length > 1 ? ` and ${own.length - 1} merged with it` : "");
  };

  function show(at) {
    heat.replaceChildren();
    picked.replaceChildren();
    if (!at) return readout.replaceChildren(h("p", { class: "soft" }, `Point at a ${query.words.length ? "word or a patch" : "patch of either photo"}, tap it, or use the arrow keys on it: where did its mass go, and what did it add?`));
    const { side, cell } = at, grid = layers[side], token = grid.own[cell];
    const outline = (which, cells, kind) => {
      const line = borders(cells, layers[which], frames[which], (_, other) => !cells.includes(other));
      picked.append(s("path", { d: line, class: "halo" }), s("path", { d: line, class: kind }));
    };
    outline(side, token < 0 ? [cell] : grid.cells.get(token), "own");
    readout.dataset.side = side;
    readout.dataset.token = token;
    if (token < 0 && kindOf(query, side) === "word") return readout.replaceChildren(h("p", { class: "soft" }, "No word is here."));
    if (token < 0) {
      const spot = `row ${Math.floor(cell / grid.columns) + 1}, column ${cell % grid.columns + 1}`;
      return readout.replaceChildren(h("p", {}, h("b", {}, `${SIDES[side]} patch, ${spot}: `), "dropped by the model, so it matches nothing and adds nothing."));
    }
    const other = 1 - side, flows = plan.flows(side, token).filter((flow) => flow.mass > 0);
    const { weight, mass, adds } = plan.sides[side];
    heat.append(s("rect", { ...frames[other], class: "shade" }));
    const most = flows.length ? flows[0].mass : 1;
    for (const flow of flows) {
      for (const target of layers[other].cells.get(flow.token) || []) {
        heat.append(s("rect", {
          ...cellBox(target, layers[other].rows, layers[other].columns, frames[other]), "fill-opacity": (0.12 + 0.73 * Math.sqrt(flow.mass / most)).toFixed(3),
          "data-token": flow.token, "data-mass": flow.mass,
        }));
      }
    }
    if (flows.length && layers[other].cells.has(flows[0].token)) outline(other, layers[other].cells.get(flows[0].token), "target");
    const idle = weight[token] - mass[token], elsewhere = mass[token] - flows.reduce((sum, flow) => sum + flow.mass, 0);
    const of = Math.abs(c.structural) > 1e-9 ? ` (${number(100 * adds[token] / c.structural, 1)} % of it)` : "";
    return readout.replaceChildren(
      h("p", {}, h("b", {}, `${SIDES[side]} ${kindOf(query, side)}, ${where(side, token)}: `), `${side ? "receives" : "sends"} `,
        h("b", { "data-mass": mass[token] }, share(mass[token])), ` at a weight of ${share(weight[token])}`,
        idle > 5e-3 * weight[token] && [", ", h("b", {}, share(idle)), " unmatched"],
        ", adds ", h("b", { "data-adds": adds[token] }, number(adds[token], 4)), ` to the structural score${of}.`),
      h("p", { class: "soft" }, flows.length ? (side ? "From " : "To ") + flows.slice(0, 3).map((flow) => `${where(other, flow.token)}: ${share(flow.mass)}, adds ${number(flow.adds, 4)}`).join("; ") : "No mass.",
        flows.length > 3 && `; ${kindOf(query, other) === "word" ? count(flows.length - 3, "more word", "more words") : count(flows.length - 3, "more patch", "more patches")}`,
        elsewhere > 5e-3 * mass[token] && [`; ${share(elsewhere)} elsewhere, thinly`], flows.length > 0 && "."));
  }

  const start = (side) => Math.max(0, cellOf(side, plan.sides[side].adds.indexOf(Math.max(...plan.sides[side].adds))));
  const cursor = [start(0), start(1)];
  const hits = (controls) => frames.map((frame, side) => {
    const { rows, columns } = layers[side];
    const under = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const clamp = (value, count) => Math.max(0, Math.min(count - 1, Math.floor(count * value)));
      return clamp((event.clientY - box.top) / box.height, rows) * columns + clamp((event.clientX - box.left) / box.width, columns);
    };
    const go = (cell) => { cursor[side] = cell; controls.enter({ side, cell }); };
    return s("rect", {
      ...frame, class: "patches", tabindex: 0, role: "application", "data-side": side,
      "aria-label": kindOf(query, side) === "word" ? `words of the query, ${rows} rows and ${columns} columns; arrow keys choose one`
        : `patches of the ${SIDES[side].toLowerCase()} photo, ${rows} rows and ${columns} columns; arrow keys choose one`,
      onpointermove: (event) => go(under(event)), onpointerdown: (event) => go(under(event)), onpointerleave: () => controls.leave(),
      onclick: () => controls.pin({ side, cell: cursor[side] }),
      onfocus: () => controls.enter({ side, cell: cursor[side] }), onblur: () => controls.leave(),
      onkeydown: (event) => {
        const at = cursor[side], row = Math.floor(at / columns), column = at % columns;
        const to = {
          ArrowLeft: row * columns + Math.max(0, column - 1), ArrowRight: row * columns + Math.min(columns - 1, column + 1),
          ArrowUp: Math.max(0, row - 1) * columns + column, ArrowDown: Math.min(rows - 1, row + 1) * columns + column,
        }[event.key];
        if (to !== undefined) go(to);
        else if (event.key === "Enter" || event.key === " ") controls.pin({ side, cell: at });
        else if (event.key === "Escape") controls.pin(null);
        else return;
        event.preventDefault();
      },
    });
  });

  const counts = layers.map((grid, side) => {
    const fine = grid.fine[0] * grid.fine[1], alive = grid.own.filter((token) => token >= 0).length;
    const parts = [grid.dropped.length > 0 && `grey: ${grid.dropped.length} of ${fine} patches dropped`,
      grid.cells.size < alive && `outlined: merged, ${grid.cells.size} tokens stand for ${alive} patches`];
    return parts.some(Boolean) && `${SIDES[side]}: ${parts.filter(Boolean).join("; ")}.`;
  }).filter(Boolean);
  const darkened = still.some(([, rest]) => rest.length) && `Darkened: a ${query.words.length ? "word or patch" : "patch"} that moves less than its weight.`;
  const exact = `Totals of a patch are stored to \u00b1${(50 * c.plan.unit).toPrecision(1)} % of mass and \u00b1${(c.plan.gain / 2).toPrecision(1)} of score; where the mass went, to 0.4 % of the patch\u2019s largest, ${number(100 * plan.kept, 1)} % of it entry by entry.`;
  show(null);
  return {
    below: s("g", {}, still, heat), above: (controls) => [picked, hits(controls)], readout, show,
    legend: [...counts, darkened, exact].filter(Boolean).join(" "),
    // Which listed matches begin or end in the token of a cell.
    touches: ({ side, cell }, match) => {
      const token = layers[side].own[cell];
      return token >= 0 && tokenAt(side, match.slice(side * 4, side * 4 + 4)) === token;
    },
  };
}
