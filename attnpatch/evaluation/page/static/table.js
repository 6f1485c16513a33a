// The sortable table of scores and costs.
const sorting = { key: null, descending: false };

// text: what a line shows. value: what it sorts by. low: smaller is better, so the first click puts it on top.
function tableColumns(view) {
  const lines = view.lines.map((i) => data.lines[i]);
  const several = new Set(lines.map((line) => line.length)).size > 1;
  const plain = (key, title, about, low, text) =>
    ({ key, title, about, low, value: (line) => line[key], text: (line) => text(line[key]) });
  const costs = [
    plain("prefill", "prefill tok/s", "prompt tokens per second", false, countText),
    plain("prefill_of_stock", "of stock", "stock's prefill time over the method's", false, shareText),
    plain("decode", "decode tok/s", "generated tokens per second", false, countText),
    plain("decode_of_stock", "of stock", "stock's decode time over the method's", false, shareText),
    plain("memory", "GPU peak", "peak memory on the GPU", true, memoryText),
  ];
  const first = [
    plain("keys", "keys", "mean visible keys per prefill query, measured", true, keysText),
    plain("decode_keys", "decode keys", "mean visible keys per generated token", true, keysText),
    plain("omega", "Ω", "share of (prompt, layer) pairs that went sparse", false, shareText),
  ];
  const used = (columns) => columns.filter((column) => lines.some((line) => isNumber(column.value(line))));
  return [
    { ...plain("length", "tokens", "length of the documents", true, (length) => (length === null ? "own" : countText(length))), skip: !several },
    ...used(first),
    ...view.columns.map((c) => scoreColumn(c)),
    ...used(costs),
  ].filter((column) => !column.skip);
}

function scoreColumn(index) {
  const column = data.columns[index];
  const chance = isNumber(column.chance) ? `; chance ${+column.chance.toPrecision(3)}` : "";
  return {
    key: `score ${index}`,
    title: column.title,
    about: `${column.about ?? column.task}; ${column.metric}${column.lower ? ", lower is better" : ""}${chance}`,
    low: column.lower === true,
    value: (line) => line.scores[index]?.[$("show").value === "delta" ? "delta" : "value"],
    cell: (line) => scoreCell(line, column, line.scores[index], index),
  };
}

function scoreCell(line, column, score, index) {
  if (!score) return el("td", {}, "-");
  const delta = $("show").value === "delta", text = delta ? signed : scoreText;
  const [value, low, high] = delta ? [score.delta, score.delta_low, score.delta_high] : [score.value, score.low, score.high];
  return el("td", { title: scoreTitle(line, column, score), class: score.best ? "best" : null },
    text(value),
    score.star && el("abbr", { class: "star", title: "differs from stock" }, "*"),
    $("show").value !== "value" && isNumber(low) && el("small", {}, rangeText(low, high, text)),
    !delta && publishedBeside(data.lines.indexOf(line), index));
}

function sorted(lines, columns) {
  const column = columns.find((one) => one.key === sorting.key);
  if (!column && sorting.key !== "name") return lines;
  const value = column ? column.value : (line) => line.name;
  const sign = sorting.descending ? -1 : 1;
  const known = (line) => value(line) !== null && value(line) !== undefined;
  return [...lines].sort((a, b) => {
    if (!known(a) || !known(b)) return known(b) - known(a); // what was not measured stays at the end
    return sign * (isNumber(value(a)) ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
  });
}

const parts = (one, next) => one.length !== next.length || one.budget !== next.budget;

function header(column, redraw) {
  const active = sorting.key === column.key;
  const state = active ? (sorting.descending ? "descending" : "ascending") : null;
  const click = () => {
    sorting.descending = active ? !sorting.descending : !column.low;
    sorting.key = column.key;
    redraw();
    document.querySelector(`[data-sort="${CSS.escape(column.key)}"]`)?.focus(); // the old button is gone
  };
  return el("th", { scope: "col", "aria-sort": state, title: column.about },
    el("button", { type: "button", "data-sort": column.key, onclick: click }, breaking(column.title),
      el("span", { class: "arrow", "aria-hidden": "true" }, active ? (sorting.descending ? " ▾" : " ▴") : "")));
}

function drawTable(view) {
  if (!view.lines.length || !view.columns.length) {
    put("scores-table", empty(data.lines.length ? "Nothing was measured for this choice." : "No cell is ok, so there is nothing to show; see what did not run below."));
    put("scores-note");
    return;
  }
  const columns = tableColumns(view), redraw = () => drawTable(view);
  const lines = sorted(view.lines.map((i) => data.lines[i]), columns);
  const name = { key: "name", title: "method", about: "method, and the budget it was matched to", low: true };
  put("scores-table", scrolling("Scores, scrolls sideways", el("table", { class: $("show").value },
    el("thead", {}, el("tr", {}, header(name, redraw), columns.map((column) => header(column, redraw)))),
    el("tbody", {}, lines.map((line, i) => el("tr", { class: sorting.key === null && i && parts(lines[i - 1], line) ? "start" : null },
      el("th", { scope: "row" }, line.name),
      columns.map((column) => (column.cell ? column.cell(line) : el("td", {}, column.text(line))))))))));
  put("scores-note", tableNote(view));
}

function tableNote(view) {
  const few = view.columns.filter((c) => view.lines.some((i) => data.lines[i].scores[c]?.small));
  const delta = $("show").value === "delta";
  const numbers = view.lines.flatMap((i) => view.columns.flatMap((c) => published.get(`${i} ${c}`) ?? []));
  const passing = view.lines.some((i) => data.lines[i].in_passing && isNumber(data.lines[i].prefill));
  return [
    "* differs from stock: the 95 % interval of the paired difference excludes 0. Bold: better than every other method at its budget by such intervals.",
    !delta && numbers.length && " Published: what others reported for this model and method, see Published numbers.",
    few.length && ` Fewer than 30 documents (n small): ${few.map((c) => data.columns[c].title).join(", ")}.`,
    passing && " Tokens per second were noted in passing, not measured in turns: compare them with care.",
  ];
}
