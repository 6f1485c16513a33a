// Numbers and names as the summary writes them.
const isNumber = (value) => typeof value === "number";

function grouped(value, digits) {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function scoreText(value) {
  return !isNumber(value) ? "-" : Math.abs(value) < 100 ? value.toFixed(2) : grouped(value, 0);
}

function signed(value) {
  return !isNumber(value) ? "-" : (value < 0 ? "−" : "+") + scoreText(Math.abs(value));
}

const countText = (value) => (isNumber(value) ? grouped(value, 0) : "-");
const keysText = (value) => (isNumber(value) ? grouped(value, 1) : "-");
const shareText = (value) => (isNumber(value) ? value.toFixed(2) : "-");
const memoryText = (value) => (isNumber(value) ? `${grouped(value / 2 ** 20, 0)} MiB` : "-");
const lengthText = (length) => (length === null ? "own length" : `${grouped(length, 0)} tokens`);
const lineText = (line, several) => (several ? `${line.name}, ${lengthText(line.length)}` : line.name);
const rangeText = (low, high, text) => `${text(low)} to ${text(high)}`;

function scoreTitle(line, column, score) {
  const parts = [`${line.name} on ${column.title}, ${lengthText(line.length)}: ${scoreText(score.value)}`];
  if (isNumber(score.low)) parts.push(`95 % interval ${rangeText(score.low, score.high, scoreText)}`);
  if (isNumber(score.delta)) parts.push(`to stock ${signed(score.delta)}`);
  if (isNumber(score.delta_low)) parts.push(`interval ${rangeText(score.delta_low, score.delta_high, signed)}`);
  if (isNumber(score.p)) parts.push(`McNemar p ${score.p.toPrecision(2)}`);
  if (isNumber(score.sd)) parts.push(`sd ${score.sd.toFixed(3)} over ${score.seeds} seeds`);
  if (isNumber(score.keys)) parts.push(`${keysText(score.keys)} keys per query`);
  if (isNumber(score.omega)) parts.push(`Ω ${shareText(score.omega)}`);
  if (isNumber(score.documents)) parts.push(`${score.documents} documents${score.small ? ", n small" : ""}`);
  return parts.join("; ");
}
