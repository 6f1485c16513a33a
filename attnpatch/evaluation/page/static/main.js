// Draws the page, and draws it again when a choice changes.
const tasks = setUpFilters(() => draw());

function draw() {
  const view = shown(tasks);
  drawTable(view);
  drawBudget(view);
  drawSpeed(view);
  drawLengths(view);
  drawDepth(view, tasks);
}

const THEMES = ["system", "light", "dark"];
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
  document.documentElement.dataset.theme = next;
  put("theme", `Theme: ${next}`);
});
$("show").addEventListener("change", draw);
$("phase").addEventListener("change", draw);
for (const phase of ["prefill", "decode"]) {
  $("phase").querySelector(`[value=${phase}]`).disabled = !data.lines.some((line) => isNumber(line[phase]));
}
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
methods.forEach(styleOf); // a method has its colour whatever is drawn first
drawHead();
draw();
drawPublished();
drawDocuments();
drawFacts();
