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
const image = (key, alt) => h("img", {
  src: data.images[key], alt, decoding: "async", width: data.sizes[key][0], height: data.sizes[key][1],
});
const base = (name) => name.split("/").pop() || name;
const mark = (relevant) => (relevant ? "\u2713" : "\u2715");
const verdictWord = (relevant) => (relevant === null ? "" : relevant ? "relevant" : "not relevant");
