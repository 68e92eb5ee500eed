// Scores as small charts, drawn by DOM calls.

import { element, state, titled } from "./settings.js";

const SVG = "http://www.w3.org/2000/svg";
const ROW = 18, LEFT = 96, WIDTH = 142, TOTAL = 280;

const rounded = (score) => (Math.round(score * 10) / 10 + 0).toFixed(1); // + 0: no negative zero

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// One row per attribute: what was obtained, from 0 to 1 along the bar, and what was asked for.
function chartRows(scores, asked) {
  const rows = [];
  for (const attribute of state.info.data) {
    const score = scores[attribute.name];
    if (!score) continue;
    const wish = asked[attribute.name];
    if (attribute.kind === "categorical") {
      const share = score.probabilities?.[String(wish)];
      if (share !== undefined) rows.push({ label: `${titled(attribute.name)} ${wish}`, share, mark: 1, text: `${Math.round(share * 100)} %` });
      continue;
    }
    const range = attribute.maximum - attribute.minimum;
    rows.push({
      label: titled(attribute.name),
      share: Math.min(Math.max((score.mean - attribute.minimum) / range, 0), 1),
      mark: wish === undefined ? null : (wish - attribute.minimum) / range,
      text: rounded(score.mean),
      asked: wish,
    });
  }
  return rows;
}

export function chart(scores, asked) {
  const rows = chartRows(scores, asked);
  const height = rows.length * ROW;
  const said = rows.map(({ label, text, asked: wish }) => `${label} ${text}${wish === undefined ? "" : `, asked for ${wish}`}`);
  const drawing = svg("svg", { viewBox: `0 0 ${TOTAL} ${height}`, role: "img", "aria-label": `Scores: ${said.join("; ")}` });
  rows.forEach(({ label, share, mark, text }, i) => {
    const middle = i * ROW + ROW / 2;
    drawing.append(svg("text", { x: 0, y: middle, class: "label" }, label));
    drawing.append(svg("rect", { x: LEFT, y: middle - 4, width: WIDTH, height: 8, rx: 4, class: "rail" }));
    drawing.append(svg("rect", { x: LEFT, y: middle - 4, width: Math.max(share * WIDTH, 2), height: 8, rx: Math.min(4, Math.max(share * WIDTH, 2) / 2), class: "bar-fill" }));
    if (mark !== null) drawing.append(svg("rect", { x: LEFT + mark * WIDTH - 1.25, y: middle - 8, width: 2.5, height: 16, rx: 1.25, class: "asked" }));
    drawing.append(svg("text", { x: TOTAL, y: middle, class: "number" }, text));
  });
  const legend = element("figcaption", {}, "Bar: scored by the attribute model. Line: asked for.");
  return element("figure", { className: "scores" }, drawing, legend);
}

// What was obtained at every level of one dial; `points` are pairs of a level and a score.
export function sweepChart(attribute, points) {
  const left = 26, bottom = 122, width = 250, height = 112;
  const place = (value) => (value - attribute.minimum) / (attribute.maximum - attribute.minimum);
  const x = (level) => left + place(level) * width;
  const y = (score) => bottom - Math.min(Math.max(place(score), 0), 1) * height;
  const said = points.map(([level, score]) => `${rounded(score)} at ${level}`).join(", ");
  const drawing = svg("svg", { viewBox: `0 0 ${left + width + 14} ${bottom + 22}`, role: "img", "aria-label": `Obtained ${titled(attribute.name)}: ${said}` });
  const ends = [attribute.minimum, attribute.maximum];
  for (const end of ends) {
    drawing.append(svg("line", { x1: left, x2: left + width, y1: y(end), y2: y(end), class: "grid" }));
    drawing.append(svg("text", { x: left - 9, y: y(end), class: "number" }, String(end)));
  }
  drawing.append(svg("line", { x1: x(ends[0]), x2: x(ends[1]), y1: y(ends[0]), y2: y(ends[1]), class: "wished" }));
  drawing.append(svg("polyline", { points: points.map(([level, score]) => `${x(level)},${y(score)}`).join(" "), class: "line" }));
  for (const [level, score] of points) {
    drawing.append(svg("circle", { cx: x(level), cy: y(score), r: 4.5, class: "bar-fill" }));
    drawing.append(svg("text", { x: x(level), y: bottom + 15, class: "tick" }, String(level)));
  }
  const legend = element("figcaption", {}, `${titled(attribute.name)} obtained (points) at each level asked for; dashed: exactly as asked.`);
  return element("figure", { className: "sweep-chart" }, drawing, legend);
}
