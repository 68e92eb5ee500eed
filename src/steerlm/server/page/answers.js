// An answer: what was in force, the text as it comes, and the scores obtained.

import { chat } from "./api.js";
import { chart } from "./charts.js";
import { render } from "./markdown.js";
import { element, requestBody, state, titled } from "./settings.js";

function chips(attributes, guidance, emphasis) {
  const list = element("ul", { className: "chips", "aria-label": "In force" });
  for (const [name, value] of Object.entries(attributes)) {
    const known = state.info.data.find((attribute) => attribute.name === name);
    const off = emphasis ? emphasis.has(name) : known && value !== known.default;
    list.append(element("li", { className: off ? "strong" : "" }, `${titled(name)} `, element("b", {}, String(value))));
  }
  const strengths = Object.entries(guidance);
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

// An empty card; `write` shows the text so far.
function makeCard(place, title, letter) {
  const said = element("div", { className: "said", dir: "auto" });
  const head = element("div", { className: "head" });
  if (title) head.append(element("h3", {}, title));
  const copyButton = element("button", { type: "button", className: "plain", hidden: true }, "Copy");
  copyButton.addEventListener("click", () => copyWith(copyButton, said.dataset.text));
  head.append(copyButton);
  const card = element("article", { className: `answer ${letter ?? ""}`, "aria-label": title ?? "Answer", "aria-busy": "true" }, head, said);
  place.append(card);
  const grown = () => card.dispatchEvent(new Event("grown", { bubbles: true }));
  let waiting = null; // a whole answer is rendered anew at most once per frame
  const draw = () => {
    waiting = null;
    said.replaceChildren(render(said.dataset.text));
    grown();
  };
  const write = (text) => {
    said.dataset.text = text;
    waiting ??= requestAnimationFrame(draw);
  };
  const setting = (attributes, guidance, emphasis) => {
    const list = chips(attributes, guidance, emphasis);
    if (title) said.before(list);
    else head.prepend(list);
  };
  const finish = () => {
    if (waiting !== null) cancelAnimationFrame(waiting);
    draw();
    card.removeAttribute("aria-busy");
    copyButton.hidden = said.hidden = said.dataset.text === "";
    head.hidden = said.hidden && head.textContent === copyButton.textContent;
  };
  const note = (message, kind) => card.append(element("p", { className: `note ${kind}` }, message));
  said.dataset.text = "";
  return { card, said, write, setting, finish, note, grown };
}

// Show an answer of earlier.
export function showAnswer(place, { text, attributes }) {
  const { write, setting, finish } = makeCard(place);
  setting(attributes, {}, null);
  write(text);
  finish();
}

// Ask and show the answer in `place`; returns its text and the attributes in force, and how many of the oldest
// exchanges had to be left out of `messages`, of which the first `fixed` always stay.
export async function answer(place, { messages, fixed = 0, setting, seed, signal, title, letter, emphasis }) {
  const shown = makeCard(place, title, letter);
  const result = { text: "", attributes: setting.values, scores: null, left: 0 };

  const onChunk = (chunk) => {
    if (chunk.steer) {
      result.attributes = chunk.steer.attributes;
      if (chunk.steer.auto) place.dispatchEvent(new CustomEvent("proposed", { bubbles: true, detail: { steer: chunk.steer, letter: letter ?? "a" } }));
      shown.setting(result.attributes, chunk.steer.guidance, emphasis);
      for (const warning of chunk.steer.warnings) shown.said.before(element("p", { className: "note warn" }, warning.message));
    }
    for (const choice of chunk.choices) {
      result.text += choice.delta.content ?? "";
      result.scores = choice.steer?.scores ?? result.scores;
      if (choice.finish_reason === "length") shown.note("Cut off at the longest length that is allowed.", "info");
    }
    shown.write(result.text);
  };
  try {
    for (;;) {
      try {
        await chat(requestBody(setting, messages, seed), onChunk, signal);
        break;
      } catch (error) {
        // the model reads no more than its context: the oldest exchange makes room
        if (error.code !== "context_length_exceeded" || messages.length < fixed + 3) throw error;
        messages = [...messages.slice(0, fixed), ...messages.slice(fixed + 2)];
        result.left += 1;
      }
    }
    if (result.text === "") shown.note("The answer is empty.", "info");
  } catch (error) {
    if (error.name === "AbortError") shown.note("Stopped.", "info");
    else shown.note(error.message, "warn");
  }
  shown.finish();
  if (result.left > 0) {
    const exchanges = result.left === 1 ? "The oldest exchange was" : `The ${result.left} oldest exchanges were`;
    shown.note(`${exchanges} left out: the conversation is longer than the model can read.`, "info");
  }
  if (result.scores) shown.card.append(chart(result.scores, result.attributes));
  shown.grown();
  return result;
}
