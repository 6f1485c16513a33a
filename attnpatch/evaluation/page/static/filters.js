// What is shown: one length, budget and task, or all of them.
const data = JSON.parse($("data").textContent);
const stock = (line) => line.stock;
const stockNames = new Set(data.lines.filter(stock).map((line) => line.method));
const methods = [...new Set(data.lines.map((line) => line.method))];
const lengths = [...new Set(data.lines.map((line) => line.length))];

function setUpFilters(changed) {
  const budgets = [...new Set(data.lines.map((line) => line.budget))].filter(isNumber).sort((a, b) => a - b);
  const tasks = [...new Set(data.columns.map((column) => column.task))];
  options($("filter-length"), [["", "all"], ...lengths.map((length, i) => [i, lengthText(length)])]);
  options($("filter-budget"), [["", "all"], ...budgets.map((budget) => [budget, `${budget} keys`])]);
  options($("filter-task"), [["", "all"], ...tasks.map((task, i) => [i, task])]);
  for (const id of ["filter-length", "filter-budget", "filter-task"]) {
    $(id).parentElement.hidden = $(id).options.length < 3; // "all" and the only one say the same
  }
  $("filters").addEventListener("change", changed);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(changed)); // the fields are reset after this event
  $("detail-label").hidden = !data.columns.some((column) => column.detail);
  $("detail").addEventListener("change", changed);
  return tasks;
}

// Indices into data.lines and data.columns. Methods as configured stay beside every budget.
function shown(tasks) {
  const length = $("filter-length").value, budget = $("filter-budget").value, task = $("filter-task").value;
  const lineShown = (line) =>
    (length === "" || line.length === lengths[length]) && (budget === "" || line.budget === null || line.budget === +budget);
  const columnShown = (column) =>
    (task === "" || column.task === tasks[task]) && (!column.detail || $("detail").checked);
  const lines = [...data.lines.keys()].filter((i) => lineShown(data.lines[i]));
  const asked = (c) => lines.some((i) => data.lines[i].scores[c]);
  return { lines, columns: [...data.columns.keys()].filter((c) => columnShown(data.columns[c]) && asked(c)) };
}
