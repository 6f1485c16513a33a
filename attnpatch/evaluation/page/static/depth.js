// Where in the context needles are found: a grid per task, methods down, depths across.
function drawDepth(view, tasks) {
  const task = $("filter-task").value;
  const grids = data.depth.filter((grid) => task === "" || grid.task === tasks[task])
    .map((grid) => ({ ...grid, lines: grid.lines.filter((own) => view.lines.includes(own.line)) }))
    .filter((grid) => grid.lines.length);
  if (!grids.length) return put("depth-grids", empty("No task of this choice places needles at a depth."));
  const reach = grids.some((grid) => grid.lines.some((own) => own.reach));
  put("depth-grids",
    el("p", { class: "note" }, "Share of answers right, over all documents and seeds. 0 % is the start of the context, 100 % is just before the question.",
      reach && " Small: the share that the mask can pass on to the question at all, where that is not everything."),
    el("div", { class: "grids" }, grids.flatMap(depthTables)));
}

function depthTables(grid) {
  const several = new Set(grid.lines.map((own) => data.lines[own.line].length)).size > 1;
  if (!several) {
    const length = data.lines[grid.lines[0].line].length;
    return [depthTable(`${grid.task}, ${lengthText(length)}`, "method", grid, grid.lines, (line) => line.name)];
  }
  const groups = new Map(); // one grid a method, lengths down
  for (const own of grid.lines) {
    const name = data.lines[own.line].series;
    groups.set(name, [...(groups.get(name) ?? []), own]);
  }
  return [...groups].map(([name, lines]) =>
    depthTable(`${grid.task}, ${name}`, "tokens", grid, lines, (line) => (line.length === null ? "own" : countText(line.length))));
}

function depthTable(title, first, grid, lines, nameOf) {
  return scrolling(title, el("table", { class: "heat" },
    el("caption", {}, title),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first), grid.depths.map((depth) => el("th", { scope: "col" }, `${+(100 * depth).toPrecision(3)} %`)))),
    el("tbody", {}, lines.map((own) => el("tr", {}, el("th", { scope: "row" }, nameOf(data.lines[own.line])),
      own.found.map((share, i) => heatCell(share, own.reach?.[i])))))));
}

function heatCell(share, reach) {
  if (!isNumber(share)) return el("td", {}, "");
  const colours = heat(share);
  const cell = el("td", {}, shareText(share), isNumber(reach) && reach < 1 && el("small", {}, shareText(reach)));
  cell.style.background = colours.background;
  cell.style.color = colours.text;
  return cell;
}
