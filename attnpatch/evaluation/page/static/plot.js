// One chart as inline SVG: points with intervals, lines through a method's points, a front, a level across.
const SIZE = { width: 320, height: 230, left: 50, right: 12, top: 10, bottom: 40 };
const MARKERS = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", "M-3.6,-3.6h7.2v7.2h-7.2Z", "M0,-5L4.8,3.8H-4.8Z",
  "M0,-5.5L5.5,0L0,5.5L-5.5,0Z", "M0,5L4.8,-3.8H-4.8Z", "M-4.6,-1.6h3v-3h3.2v3h3v3.2h-3v3h-3.2v-3h-3Z"];
const COLOURS = 7;

const styles = new Map(); // a method keeps its colour and marker in all charts
function styleOf(method) {
  if (stockNames.has(method)) return { colour: "cs", path: MARKERS[3] };
  if (!styles.has(method)) {
    const index = styles.size;
    styles.set(method, { colour: `c${index % COLOURS}`, path: MARKERS[(index + Math.floor(index / COLOURS)) % MARKERS.length] });
  }
  return styles.get(method);
}

const moved = (x, y) => `translate(${x.toFixed(1)},${y.toFixed(1)})`;

// points: {method, group, dash, x, y, low, high, front, title}; level: {y, low, high} of stock, or null. xTicks: on a
// logarithmic axis. logY: null lets the values decide.
function chart({ points, level = null, xLabel, yLabel, xTicks = null, logY = false, label }) {
  const { width, height, left, right, top, bottom } = SIZE;
  const x = scale(points.map((one) => one.x), left + 8, width - right - 8, { zero: true, log: xTicks ? true : null });
  if (xTicks) x.ticks = xTicks;
  const heights = points.flatMap((one) => [one.y, one.low, one.high]).filter(isNumber);
  const y = scale(heights, height - bottom, top, { zero: true, log: logY });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    axes(x, y, xLabel, yLabel),
    level && stockLevel(level, y),
    frontLine(points.filter((one) => one.front), x, y),
    joinedLines(points, x, y),
    points.map((one) => point(one, x, y)));
}

function axes(x, y, xLabel, yLabel) {
  const { width, height, left, right, top, bottom } = SIZE;
  const base = height - bottom;
  return [
    y.ticks.map((value) => svg("g", {},
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y.at(value), y2: y.at(value) }),
      svg("text", { x: left - 5, y: y.at(value) + 3.5, "text-anchor": "end" }, tickText(value)))),
    x.ticks.map((value) => svg("g", {},
      svg("line", { class: "grid", x1: x.at(value), x2: x.at(value), y1: base, y2: base + 4 }),
      svg("text", { x: x.at(value), y: base + 15, "text-anchor": "middle" }, tickText(value)))),
    svg("line", { class: "axis", x1: left, x2: width - right, y1: base, y2: base }),
    svg("line", { class: "axis", x1: left, x2: left, y1: top, y2: base }),
    svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    svg("text", { transform: `translate(11,${(top + base) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
  ];
}

function stockLevel({ y: value, low, high }, y) {
  const x1 = SIZE.left, x2 = SIZE.width - SIZE.right;
  return [
    isNumber(low) && svg("rect", { class: "band", x: x1, width: x2 - x1, y: y.at(high), height: Math.max(0.5, y.at(low) - y.at(high)) }),
    svg("line", { class: "stock", x1, x2, y1: y.at(value), y2: y.at(value) }),
  ];
}

function frontLine(points, x, y) {
  const sorted = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const path = sorted.map((one, i) => `${i ? "L" : "M"}${x.at(one.x).toFixed(1)},${y.at(one.y).toFixed(1)}`).join("");
  return sorted.length > 0 && [svg("path", { class: "front", d: path }),
    sorted.map((one) => svg("circle", { class: "ring", cx: x.at(one.x), cy: y.at(one.y), r: 8 }))];
}

function joinedLines(points, x, y) {
  return [...groupBy(points)].map(([, own]) => {
    const sorted = [...own].sort((a, b) => a.x - b.x);
    const path = sorted.map((one, i) => `${i ? "L" : "M"}${x.at(one.x).toFixed(1)},${y.at(one.y).toFixed(1)}`).join("");
    return svg("path", { class: `join ${styleOf(own[0].method).colour} ${own[0].dash ?? ""}`, d: path });
  });
}

function point(one, x, y) {
  const { colour, path } = styleOf(one.method);
  return svg("g", { class: `point ${colour}`, transform: moved(x.at(one.x), y.at(one.y)) },
    svg("title", {}, one.title),
    isNumber(one.low) && svg("line", { x1: 0, x2: 0, y1: y.at(one.low) - y.at(one.y), y2: y.at(one.high) - y.at(one.y) }),
    svg("path", { d: path }),
    svg("circle", { class: "touch", r: 11 }));
}

// entries: {method, name, dash}
function legend(entries, { front, level }) {
  const swatch = (...inside) => svg("svg", { viewBox: "-12 -8 24 16", width: 24, height: 16, "aria-hidden": "true" }, ...inside);
  return el("ul", { class: "legend" },
    entries.map(({ method, name, dash }) => el("li", {}, swatch(
      dash !== undefined && svg("path", { class: `join ${styleOf(method).colour} ${dash}`, d: "M-12,0H12" }),
      svg("g", { class: `point ${styleOf(method).colour}` }, svg("path", { d: styleOf(method).path }))), name)),
    level && el("li", {}, swatch(svg("line", { class: "stock", x1: -11, x2: 11, y1: 0, y2: 0 }),
      svg("g", { class: "point cs" }, svg("path", { d: MARKERS[3] }))), "stock, full attention"),
    front && el("li", {}, swatch(svg("path", { class: "front", d: "M-11,0H11" }), svg("circle", { class: "ring", r: 6 })),
      "Pareto front of the measured values: no other point is better in both"));
}

function groupBy(points) {
  const groups = new Map();
  for (const one of points) groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  return groups;
}
