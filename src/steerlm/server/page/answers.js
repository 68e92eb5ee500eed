// An answer: what was in force, the text as it comes, and the scores obtained.

import { chat } from "./api.js";
import { chart } from "./charts.js";
import { element, requestBody, state, titled } from "./settings.js";

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
      const list = chips(result.attributes, chunk.steer, emphasis);
      if (title) said.before(list);
      else head.prepend(list);
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
  said.hidden = text.data === "";
  head.hidden = said.hidden && head.textContent === copyButton.textContent;
  if (result.scores) card.append(chart(result.scores, result.attributes));
  card.dispatchEvent(new Event("grown", { bubbles: true }));
  return { ...result, text: text.data };
}
