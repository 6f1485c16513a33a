// Run facts, full options, what did not run, and how to read it all.
function drawFacts() {
  const monospaced = new Set(["command", "fingerprint", "revision"]);
  put("run-facts",
    el("dl", {}, data.facts.map(([name, value]) => [el("dt", {}, name),
      el("dd", {}, monospaced.has(name) ? el("code", {}, value) : value)])),
    data.problems.length > 0 && [el("h3", {}, "What did not run"), el("ul", { id: "problems" }, data.problems.map((line) => el("li", {}, line)))],
    data.configs.length > 0 && el("details", {}, el("summary", {}, "Every method's full options"),
      data.configs.map((one) => el("p", {}, `${one.name}${one.tasks.length ? ` (${one.tasks.join(", ")})` : ""}: `, el("code", {}, one.config)))),
    el("details", {}, el("summary", {}, "How to read the numbers"), data.notes.map((line) => el("p", {}, line))));
}

function drawHead() {
  put("title", `attnpatch: ${data.model}`);
  put("about", data.about);
  const { ok, skipped, error } = data.counts;
  const badge = (kind, text) => el("span", { class: `badge ${kind}` }, text);
  put("badges",
    badge(ok ? "good" : "bad", `${ok} of ${ok + skipped + error} cells ok`),
    skipped > 0 && badge("plain", `${skipped} skipped`),
    error > 0 && badge("bad", `${error} failed`),
    data.unpatched === true && badge("good", "stock model the same bit for bit after all methods"),
    data.unpatched === false && badge("bad", "UNPATCH FAILED: do not trust these numbers"));
}
