// Two methods on the same documents: which got better, which worse, and what was answered.
const FIRST_SHOWN = 50;
const pair = { panel: 0, a: null, b: null, only: "changed", all: false };

function drawDocuments() {
  const { scores, left_out: leftOut, text } = data.documents;
  if (!scores.length) return put("documents-view", empty("No task of this run has scores document by document."));
  const panel = scores[pair.panel], present = Object.keys(panel.lines).map(Number);
  if (!present.includes(pair.a)) pair.a = present.find((i) => stock(data.lines[i])) ?? present[0];
  if (!present.includes(pair.b)) pair.b = present.find((i) => i !== pair.a) ?? pair.a;
  const found = differences(panel);
  const change = (key, number = true) => (event) => {
    pair[key] = number ? +event.target.value : event.target.value;
    pair.all = false;
    drawDocuments();
    $(event.target.id)?.focus();
  };
  const names = scores.map((one, i) => [i, `${data.columns[one.column].title}${lengths.length > 1 ? `, ${lengthText(one.length)}` : ""}`]);
  const lines = present.map((i) => [i, data.lines[i].name]);
  put("documents-view",
    el("p", { class: "controls" },
      chooser("pair-task", "Task", names, pair.panel, change("panel")),
      chooser("pair-a", "A", lines, pair.a, change("a")),
      chooser("pair-b", "B", lines, pair.b, change("b")),
      chooser("pair-only", "Documents", [["changed", "better or worse"], ["better", "better in B"], ["worse", "worse in B"], ["all", "all"]],
        pair.only, change("only", false))),
    pairSummary(found), pairBars(found), pairTable(panel, found),
    text && el("p", { class: "note" }, text),
    leftOut > 0 && el("p", { class: "note" }, `${leftOut} tasks were left out here to keep the page small; results.json has their scores.`));
}

function chooser(id, label, entries, chosen, changed) {
  const select = el("select", { id, onchange: changed });
  options(select, entries);
  select.value = String(chosen);
  return el("label", {}, `${label} `, select);
}

// gain: how much better B is, whichever way the metric points.
function differences(panel) {
  const lower = data.columns[panel.column].lower === true;
  return panel.ids.map((id, index) => {
    const a = panel.lines[pair.a][index], b = panel.lines[pair.b][index];
    const known = isNumber(a) && isNumber(b);
    return { id, index, a, b, difference: known ? b - a : null, gain: known ? (lower ? a - b : b - a) : null };
  });
}

function pairSummary(found) {
  const known = found.filter((one) => one.gain !== null), count = (test) => known.filter(test).length;
  const better = count((one) => one.gain > 0), worse = count((one) => one.gain < 0);
  const nameA = data.lines[pair.a].name, nameB = data.lines[pair.b].name;
  return el("p", { id: "pair-summary" },
    `Against ${nameA}, ${nameB} is `, el("strong", { class: "better" }, `better on ${better}`), ", ",
    el("strong", { class: "worse" }, `worse on ${worse}`), ` and equal on ${known.length - better - worse} of ${found.length} documents.`,
    known.length < found.length && ` ${found.length - known.length} have no score in one of the two.`);
}

function pairBars(found) {
  const gains = found.map((one) => one.gain).filter((gain) => gain !== null).sort((a, b) => b - a);
  const most = Math.max(...gains.map(Math.abs), 0);
  if (!most) return null;
  const width = 640, height = 90, step = width / gains.length, half = height / 2;
  return svg("svg", { class: "bars", viewBox: `0 0 ${width} ${height}`, role: "img", preserveAspectRatio: "none",
    "aria-label": "Differences of all documents, from the most improved to the most harmed" },
    gains.map((gain, i) => {
      const size = (Math.abs(gain) / most) * (half - 4);
      return svg("rect", { class: gain > 0 ? "better" : "worse", x: i * step, width: Math.max(0.5, step - Math.min(1, step / 5)),
        y: gain > 0 ? half - size : half, height: size });
    }),
    svg("line", { class: "axis", x1: 0, x2: width, y1: half, y2: half }));
}

function pairTable(panel, found) {
  const tests = { changed: (one) => one.gain, better: (one) => one.gain > 0, worse: (one) => one.gain < 0, all: () => true };
  const rows = found.filter(tests[pair.only]).sort((x, y) => Math.abs(y.gain) - Math.abs(x.gain) || x.index - y.index);
  if (!rows.length) return empty("No document of this kind.");
  const answers = data.documents.answers.find((one) => one.task === data.columns[panel.column].task && one.length === panel.length);
  const given = [pair.a, pair.b].map((line) => answers?.lines[line]);
  const columns = ["document", "A", "B", "B − A", ...(answers ? ["wanted", "A answered", "B answered"] : [])];
  const shownRows = pair.all ? rows : rows.slice(0, FIRST_SHOWN);
  const more = () => { pair.all = true; drawDocuments(); };
  return [
    scrolling("Documents, scrolls sideways", el("table", { class: "pairs" },
      el("thead", {}, el("tr", {}, columns.map((name, i) => el("th", { scope: "col", class: i > 3 ? "text" : null }, name)))),
      el("tbody", {}, shownRows.map((one) => el("tr", {},
        el("th", { scope: "row" }, one.id), el("td", {}, scoreText(one.a)), el("td", {}, scoreText(one.b)),
        el("td", { class: one.gain > 0 ? "better" : one.gain < 0 ? "worse" : null }, signed(one.difference)),
        answers && [answers.wanted, ...given].map((texts) => el("td", { class: "text" }, texts?.[one.index] ?? "-"))))))),
    rows.length > shownRows.length && el("p", {}, el("button", { type: "button", onclick: more }, `Show all ${rows.length}`)),
    answers && el("p", { class: "note" }, "Lists of numbers are token ids; a slash parts the answers of different seeds."),
  ];
}
