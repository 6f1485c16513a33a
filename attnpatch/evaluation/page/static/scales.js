// From values to places on a chart, and the values worth a tick.
function scale(values, from, to, { zero = false, log = null } = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  const logarithmic = log ?? (low > 0 && high / low > 20);
  if (logarithmic) {
    const pad = high > low ? (high / low) ** 0.06 : 1.1;
    low /= pad;
    high *= pad;
  } else {
    const pad = (high - low || Math.abs(high) || 1) * 0.08;
    low = zero && low >= 0 && low < 0.4 * high ? 0 : low - pad;
    high += pad;
  }
  const map = logarithmic ? Math.log : (value) => value;
  const at = (value) => from + ((map(value) - map(low)) / (map(high) - map(low))) * (to - from);
  return { at, ticks: logarithmic ? logTicks(low, high) : ticks(low, high), logarithmic };
}

function ticks(low, high, about = 5) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(i * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  const steps = high / low > 500 ? [1] : high / low > 20 ? [1, 3] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const step of steps) {
      const value = step * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function tickText(value) {
  if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (Math.abs(value) >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(4));
}

// Yellow is high in both themes; the text on it is chosen by its brightness.
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function heat(share) {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const index = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const colour = VIRIDIS[index].map((low, i) => Math.round(low + (VIRIDIS[index + 1][i] - low) * (place - index)));
  const bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 125;
  return { background: `rgb(${colour.join(", ")})`, text: bright ? "#000" : "#fff" };
}
