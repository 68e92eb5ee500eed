// An answer: what was in force, the text as it comes, and the scores obtained.

import { chat } from "./api.js";
import { element, requestBody, state, titled } from "./settings.js";

const SVG = "http://www.w3.org/2000/svg";
const ROW = 22, LEFT = 104, WIDTH = 150, TOTAL = 300;

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
      text: score.mean.toFixed(1),
      asked: wish,
    });
  }
  return rows;
}

function chart(scores, asked) {
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

function chips(attributes, steer, emphasis) {
  const list = element("ul", { className: "chips", "aria-label": "In force" });
  for (const [name, value] of Object.entries(attributes)) {
    const known = state.info.data.find((attribute) => attribute.name === name);
    const off = emphasis ? emphasis.has(name) : known && value !== known.default;
    list.append(element("li", { className: off ? "strong" : "" }, `${titled(name)} `, element("b", {}, String(value))));
  }
  const strengths = Object.entries(steer.guidance);
  const same = new Set(strengths.map(([, value]) => value));
  if (strengths.length > 0) {
    const text = same.size === 1 ? `strength ${strengths[0][1]}` : strengths.map(([name, g]) => `${titled(name)} × ${g}`).join(" ");
    list.append(element("li", { className: "strong" }, text));
  }
  return list;
}

async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // without TLS there is no clipboard but this one
  const area = element("textarea", { value: text, className: "quiet" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export async function copyWith(button, text) {
  const label = button.textContent;
  try {
    await copy(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  document.getElementById("status").textContent = button.textContent;
  button.disabled = true; // until its label is back
  setTimeout(() => {
    button.textContent = label;
    button.disabled = false;
  }, 1200);
}

// Ask and show the answer in `place`; returns its text and the attributes in force.
export async function answer(place, { messages, setting, seed, signal, title, letter, emphasis }) {
  const said = element("div", { className: "said", dir: "auto" });
  const text = document.createTextNode("");
  said.append(text);
  const head = element("div", { className: "head" });
  if (title) head.append(element("h3", {}, title));
  const copyButton = element("button", { type: "button", className: "plain", hidden: true }, "Copy");
  copyButton.addEventListener("click", () => copyWith(copyButton, text.data));
  head.append(copyButton);
  const card = element("article", { className: `answer ${letter ?? ""}`, "aria-label": title ?? "Answer", "aria-busy": "true" }, head, said);
  place.append(card);
  const note = (message, kind) => card.append(element("p", { className: `note ${kind}` }, message));
  const result = { text: "", attributes: setting.values, scores: null };

  const onChunk = (chunk) => {
    if (chunk.steer) {
      result.attributes = chunk.steer.attributes;
      said.before(chips(result.attributes, chunk.steer, emphasis));
      for (const warning of chunk.steer.warnings) said.before(element("p", { className: "note warn" }, warning.message));
    }
    for (const choice of chunk.choices) {
      text.data += choice.delta.content ?? "";
      result.scores = choice.steer?.scores ?? result.scores;
      if (choice.finish_reason === "length") note("Cut off at the longest length that is allowed.", "info");
    }
    card.dispatchEvent(new Event("grown", { bubbles: true }));
  };
  try {
    await chat(requestBody(setting, messages, seed), onChunk, signal);
    if (text.data === "") note("The answer is empty.", "info");
  } catch (error) {
    if (error.name === "AbortError") note("Stopped.", "info");
    else note(error.message, "warn");
  }
  card.removeAttribute("aria-busy");
  copyButton.hidden = text.data === "";
  if (result.scores) card.append(chart(result.scores, result.attributes));
  card.dispatchEvent(new Event("grown", { bubbles: true }));
  return { ...result, text: text.data };
}
