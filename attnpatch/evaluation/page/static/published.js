// What others published: small in the table beside our score, and in tables of their own with source and note.
const published = new Map(); // by place in the table
for (const one of data.published.numbers) {
  const place = `${one.line} ${one.column}`;
  published.set(place, [...(published.get(place) ?? []), one]);
}

const sourceText = (one) => `${one.source} [${one.tag}]${one.note ? `. ${one.note}` : ""}`;
const printed = (value) => (isNumber(value) ? value.toFixed(2) : "-");
const printedDifference = (value) => (isNumber(value) ? (value < 0 ? "−" : "+") + printed(Math.abs(value)) : "-");

function publishedTitle(one) {
  const ours = isNumber(one.ours) ? `, ours ${printed(one.ours)}, difference ${printedDifference(one.difference)}` : "";
  return `${one.name}: ${printed(one.reported)} published for ${one.method}${ours}; ${sourceText(one)}`;
}

function publishedBeside(line, column) {
  return (published.get(`${line} ${column}`) ?? []).map((one) =>
    el("small", { class: "published", title: publishedTitle(one) }, `published ${+one.value.toPrecision(4)}`));
}

function drawPublished() {
  const { note, numbers } = data.published;
  for (const part of [$("published"), document.querySelector("nav [href='#published']")]) part.hidden = !numbers.length;
  put("published-tables", el("p", { class: "note" }, note), [...new Set(numbers.map((one) => one.name))].map((name) => {
    const own = numbers.filter((one) => one.name === name);
    return [scrolling(`${name}, scrolls sideways`, publishedTable(name, own)),
      [...new Set(own.map(sourceText))].map((text) => el("p", { class: "note" }, text))];
  }));
}

function publishedTable(name, own) {
  const columns = ["method", "tokens", "published", "ours", "difference", "documents"];
  const part = (one) => one.measured > 0 && one.measured < one.tasks && ` (${one.measured}/${one.tasks} tasks)`;
  return el("table", {}, el("caption", {}, name),
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column)))),
    el("tbody", {}, own.map((one) => el("tr", {}, el("th", { scope: "row" }, one.method),
      el("td", {}, one.length === null ? "own" : countText(one.length)),
      el("td", { title: sourceText(one) }, printed(one.reported)), el("td", {}, printed(one.ours), part(one)),
      el("td", {}, printedDifference(one.difference)), el("td", {}, countText(one.documents || null))))));
}
