// Scores against budget, against speed and by length: one small chart a task and length.
const MOST_CHARTS = 12;

function panelsOf(view) {
  return view.columns.flatMap((column) => lengths.map((length) => ({
    column, length, lines: view.lines.map((i) => data.lines[i]).filter((line) => line.length === length && line.scores[column]),
  }))).filter((panel) => panel.lines.length);
}

function panelTitle(panel) {
  const column = data.columns[panel.column];
  const where = lengths.length > 1 && panel.length !== undefined ? `, ${lengthText(panel.length)}` : "";
  return el("figcaption", { title: column.about }, `${column.title}${where}`, column.lower && el("small", {}, " lower is better"));
}

function gallery(id, panels, draw, entries, marks, none) {
  if (!panels.length) return put(id, empty(none));
  put(id, legend(entries, marks),
    el("div", { class: "gallery" }, panels.slice(0, MOST_CHARTS).map((panel) => el("figure", {}, panelTitle(panel), draw(panel)))),
    panels.length > MOST_CHARTS && el("p", { class: "note" }, `${MOST_CHARTS} of ${panels.length} charts; choose tokens or a task above to see the others.`));
}

function drawAgainst(id, view, cost, xLabel, xOf, none) {
  const panels = panelsOf(view).map((panel) => ({ ...panel, lines: panel.lines.filter((line) => isNumber(xOf(line, panel.column))) }))
    .filter((panel) => panel.lines.some((line) => !stock(line)));
  const lines = panels.flatMap((panel) => panel.lines);
  const entries = methods.filter((method) => lines.some((line) => line.method === method && !stock(line))).map((method) => ({ method, name: method }));
  gallery(id, panels, (panel) => {
    const column = data.columns[panel.column], base = panel.lines.find(stock);
    return chart({
      points: panel.lines.map((line) => pointOf(line, panel.column, xOf(line, panel.column), line.method, cost)),
      level: base && { y: base.scores[panel.column].value, low: base.scores[panel.column].low, high: base.scores[panel.column].high },
      xLabel, yLabel: column.metric, logY: column.lower ? null : false,
      label: `${column.title} against ${xLabel}: ${panel.lines.map((line) => `${line.name} ${scoreText(line.scores[panel.column].value)} at ${countText(xOf(line, panel.column))}`).join(", ")}`,
    });
  }, entries, { front: true, level: lines.some(stock) }, none);
}

function pointOf(line, column, x, group, cost) {
  const score = line.scores[column];
  return { x, group, method: line.method, y: score.value, low: score.low, high: score.high,
    front: (score.front ?? []).includes(cost), title: scoreTitle(line, data.columns[column], score) };
}

function drawBudget(view) {
  drawAgainst("budget-charts", view, "keys", "mean visible keys per query", (line, column) => line.scores[column].keys,
    "Nothing here to draw: this choice has no method with a measured budget beside stock.");
}

function drawSpeed(view) {
  const phase = $("phase").value;
  drawAgainst("speed-charts", view, phase, `${phase} tokens per second`, (line) => line[phase],
    `Nothing here to draw: the speed of ${phase} was not measured for this choice.`);
}

// A method keeps its colour; its budgets differ in their dashes.
function seriesDashes(lines) {
  const found = new Map(), budgets = new Map();
  for (const { method, series } of lines) {
    if (found.has(series)) continue;
    const index = budgets.get(method) ?? 0;
    found.set(series, { method, dash: `d${index % 4}` });
    budgets.set(method, index + 1);
  }
  return found;
}

// All lengths, whatever the filter says: that is what this chart is about.
function drawLengths(view) {
  const budget = $("filter-budget").value;
  const lines = data.lines.filter((line) => line.length !== null && (budget === "" || line.budget === null || view.lines.some((i) => data.lines[i].series === line.series)));
  const panels = view.columns.map((column) => ({ column, lines: lines.filter((line) => line.scores[column]) }))
    .filter((panel) => new Set(panel.lines.map((line) => line.length)).size > 1);
  const one = lengths.length === 1 && lengths[0] !== null ? ` at ${lengthText(lengths[0])}` : "";
  const dashes = seriesDashes(lines);
  const drawn = new Set(panels.flatMap((panel) => panel.lines.map((line) => line.series)));
  const entries = [...dashes].filter(([series]) => drawn.has(series)).map(([name, own]) => ({ name, ...own }));
  gallery("length-charts", panels, (panel) => chart({
    points: panel.lines.map((line) => ({ ...pointOf(line, panel.column, line.length, line.series), dash: dashes.get(line.series).dash })),
    xLabel: "tokens", yLabel: data.columns[panel.column].metric, logY: data.columns[panel.column].lower ? null : false,
    xTicks: lengths.filter(isNumber),
    label: `${data.columns[panel.column].title} by length: ${panel.lines.map((line) => `${line.series} ${scoreText(line.scores[panel.column].value)} at ${line.length}`).join(", ")}`,
  }), entries, {}, `Each task was measured at one length only${one}; a run with several --lengths draws this.`);
}
