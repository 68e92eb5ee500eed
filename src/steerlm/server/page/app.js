// The page: views, the composer, and what asking means in each view.

import { answer, copyWith, showAnswer } from "./answers.js";
import { forgetKey, getAttributes, hasKey } from "./api.js";
import { sweepChart } from "./charts.js";
import { begin, conversations, current, load, open, remove, save, titleOf } from "./conversations.js";
import { buildPanel, showPanel } from "./dials.js";
import { defaults, element, fromHash, isOpen, levels, state, titled, toHash, withValues } from "./settings.js";

const byId = (id) => document.getElementById(id);
const VIEWS = ["chat", "compare", "sweep"];
const EMPTY = {
  chat: ["Talk to the model", "Set the dials, ask, then turn a dial and press “Ask again” to see what it changes."],
  compare: ["Two settings, one question", "Every dial has two sliders now. Set A and B apart, and ask."],
  sweep: ["All levels of one dial", "Choose a dial, ask a question, and read its answers from the lowest level to the highest."],
};
const PLACEHOLDERS = { chat: "Ask something", compare: "Ask both settings", sweep: "Ask at every level" };
const EXAMPLES = ["How do I bake bread?", "Why do people love riding a bicycle?", "What should I do with a free weekend?"];
let running = null; // an AbortController while answers are being written

function show() {
  document.body.dataset.view = state.view;
  document.querySelector(`[name=view][value=${state.view}]`).checked = true;
  document.querySelector(`[name=target][value=${state.target}]`).checked = true;
  for (const view of VIEWS) byId(view).hidden = view !== state.view;
  byId("system-section").hidden = state.view !== "chat";
  byId("conversations").hidden = state.view !== "chat" || conversations.length === 0;
  byId("sweep-bar").hidden = state.view !== "sweep";
  byId("question").placeholder = PLACEHOLDERS[state.view];
  byId("forget").hidden = !hasKey();
  byId("clear").disabled = running !== null || !byId(state.view).querySelector(".turn");
  byId("clear").textContent = state.view === "chat" ? "New chat" : "Clear";
  const focused = document.activeElement;
  byId("ask").hidden = running !== null;
  byId("stop").hidden = running === null;
  if (focused === byId("ask") && running !== null) byId("stop").focus();
  if (focused === byId("stop") && running === null) byId("ask").focus();
  byId("again").hidden = state.view !== "chat" || current.turns.length === 0;
  byId("again").disabled = running !== null;
  for (const button of document.querySelectorAll(".edit, #conversations button, .example")) button.disabled = running !== null;
  showPanel();
}

function changed() {
  history.replaceState(null, "", toHash());
  show();
}

function showEmpty(view) {
  const [title, text] = EMPTY[view];
  const examples = EXAMPLES.map((question) => {
    const button = element("button", { type: "button", className: "example" }, question);
    button.addEventListener("click", () => ask(question));
    return button;
  });
  const buttons = element("div", { className: "examples" }, ...examples);
  byId(view).replaceChildren(element("div", { className: "empty" }, element("h2", {}, title), element("p", {}, text), buttons));
}

function newTurn(view, question) {
  byId(view).querySelector(".empty")?.remove();
  const answers = element("div", { className: "answers" });
  const block = element("section", { className: "turn", "aria-label": "Question and answers" });
  const asked = element("div", { className: "asked-row" }, element("p", { className: "asked-text", dir: "auto" }, question));
  if (view === "chat") {
    const index = current.turns.length;
    const edit = element("button", { type: "button", className: "plain edit", title: "Change this question; what follows it goes" }, "Edit");
    edit.addEventListener("click", () => editFrom(index));
    asked.prepend(edit);
  }
  block.append(asked, answers);
  byId(view).append(block);
  return { block, answers };
}

// Run `work` with a signal that the stop button gives.
async function whileRunning(work) {
  running = new AbortController();
  byId("status").textContent = "The answer is being written.";
  show();
  try {
    await work(running.signal);
  } finally {
    const stopped = running.signal.aborted;
    running = null;
    byId("status").textContent = stopped ? "Stopped." : "The answer is complete.";
    show();
  }
}

function newSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

// What goes along with a question: the system prompt, and the conversation before it without what was never answered.
function messagesFor(index) {
  const { system, turns, left = 0 } = current;
  const before = turns.slice(0, index).filter(({ text }) => text !== "").slice(left);
  const said = before.flatMap(({ question, text, attributes }) => {
    // only whole levels can stand in an earlier answer's header
    const whole = Object.entries(attributes).filter(([, value]) => typeof value === "string" || Number.isInteger(value));
    return [{ role: "user", content: question }, { role: "assistant", content: text, attributes: Object.fromEntries(whole) }];
  });
  const first = system.trim() === "" ? [] : [{ role: "system", content: system }];
  return { messages: [...first, ...said, { role: "user", content: turns[index].question }], fixed: first.length };
}

async function write(index, answers) {
  await whileRunning(async (signal) => {
    const turn = current.turns[index];
    const result = await answer(answers, { ...messagesFor(index), setting: state.a, seed: newSeed(), signal });
    if (result.text !== "") Object.assign(turn, { text: result.text, attributes: result.attributes });
    current.left = (current.left ?? 0) + result.left;
    save();
  });
  showConversations();
}

async function askChat(question) {
  const { answers } = newTurn("chat", question);
  current.turns.push({ question, text: "", attributes: {} });
  await write(current.turns.length - 1, answers);
}

function again() {
  const answers = byId("chat").querySelector(".turn:last-child .answers");
  if (matchMedia("(max-width: 56rem)").matches) byId("panel").open = false;
  write(current.turns.length - 1, answers);
  answers.lastElementChild?.scrollIntoView({ block: "nearest" });
}

// Take a question back into the composer; it and what follows it leave the conversation.
function editFrom(index) {
  byId("question").value = current.turns[index].question;
  current.turns.length = index;
  current.left = Math.min(current.left ?? 0, index);
  save();
  showConversation();
  grow();
  byId("question").focus();
}

function showConversation() {
  showEmpty("chat");
  byId("system").value = current.system;
  const { turns } = current;
  current.turns = []; // counted while they are shown
  for (const turn of turns) {
    const { answers } = newTurn("chat", turn.question);
    if (turn.text !== "") showAnswer(answers, turn);
    current.turns.push(turn);
  }
  showConversations();
  show();
}

function showConversations() {
  const rows = conversations.map((conversation) => {
    const button = element("button", { type: "button", className: "open" }, titleOf(conversation));
    button.setAttribute("aria-pressed", String(conversation.id === current.id));
    button.addEventListener("click", () => {
      open(conversation.id);
      showConversation();
    });
    const gone = element("button", { type: "button", className: "plain", "aria-label": `Delete ${titleOf(conversation)}` }, "✕");
    gone.addEventListener("click", () => {
      remove(conversation.id);
      showConversation();
    });
    return element("li", {}, button, gone);
  });
  byId("conversation-list").replaceChildren(...rows);
  byId("conversations").hidden = state.view !== "chat" || rows.length === 0;
}

function differences() {
  return new Set(Object.keys(state.a.values).filter((name) => state.a.values[name] !== state.b.values[name]));
}

async function askCompare(question) {
  const { answers } = newTurn("compare", question);
  answers.classList.add("pair");
  const messages = [{ role: "user", content: question }];
  const seed = newSeed(); // the same luck for both
  const emphasis = differences();
  await whileRunning((signal) =>
    Promise.all(
      ["a", "b"].map((letter) =>
        answer(answers, { messages, setting: state[letter], seed, signal, title: letter.toUpperCase(), letter, emphasis }),
      ),
    ),
  );
}

async function askSweep(question) {
  const attribute = state.info.data.find(({ name }) => name === state.dial);
  if (!attribute) return;
  const { answers } = newTurn("sweep", question);
  answers.classList.add("levels");
  const messages = [{ role: "user", content: question }];
  const seed = newSeed();
  const emphasis = new Set([attribute.name]);
  await whileRunning(async (signal) => {
    const results = await Promise.all(
      levels(attribute).map((level) => {
        const turned = [...state.a.turned, attribute.name];
        const setting = { ...state.a, values: { ...state.a.values, [attribute.name]: level }, preset: null, turned };
        return answer(answers, { messages, setting, seed, signal, title: `${titled(attribute.name)} ${level}`, emphasis });
      }),
    );
    const points = results.filter(({ scores }) => scores?.[attribute.name]).map(({ attributes, scores }) => [
      attributes[attribute.name], scores[attribute.name].mean,
    ]);
    if (attribute.kind === "ordinal" && points.length > 1) answers.append(sweepChart(attribute, points));
  });
}

const ASK = { chat: askChat, compare: askCompare, sweep: askSweep };

function grow() {
  const box = byId("question");
  box.rows = 1;
  while (box.rows < 8 && box.scrollHeight > box.clientHeight + 2) box.rows += 1;
}

async function submit(event) {
  event.preventDefault();
  await ask(byId("question").value.trim());
}

async function ask(question) {
  if (question === "" || running !== null || state.info === null) return;
  if (state.view === "chat") byId("question").value = ""; // the others are asked again and again
  grow();
  if (matchMedia("(max-width: 56rem)").matches) byId("panel").open = false;
  const view = state.view;
  const asked = ASK[view](question);
  byId(view).lastElementChild?.scrollIntoView({ block: view === "chat" ? "nearest" : "start" });
  await asked;
}

function clear() {
  if (state.view === "chat") {
    begin();
    showConversation();
  } else showEmpty(state.view);
  show();
  byId("question").focus();
}

function connect() {
  byId("composer").addEventListener("submit", submit);
  byId("question").addEventListener("input", grow);
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
  byId("again").addEventListener("click", again);
  byId("system").addEventListener("input", () => {
    current.system = byId("system").value;
    if (current.turns.length > 0) save();
  });
  byId("share").addEventListener("click", () => copyWith(byId("share"), location.href));
  byId("forget").addEventListener("click", () => {
    sessionStorage.clear(); // what was seen with the key goes with it
    forgetKey();
    location.reload();
  });
  byId("dial").addEventListener("change", () => {
    state.dial = byId("dial").value;
    changed();
  });
  for (const radio of document.querySelectorAll("[name=view], [name=target]")) {
    radio.addEventListener("change", () => {
      state[radio.name] = radio.value;
      changed();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running !== null) running.abort();
    const writing = event.target.matches("textarea, select, input:not([type=range], [type=radio], [type=checkbox])");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      byId("question").focus();
    }
  });
  // stay at the end of a growing chat, unless the reader has scrolled up
  document.addEventListener("grown", () => {
    const page = document.scrollingElement;
    if (state.view === "chat" && page.scrollHeight - page.scrollTop - page.clientHeight < 240) page.scrollTop = page.scrollHeight;
  });
  // the sliders show what was proposed
  document.addEventListener("proposed", ({ detail: { steer, letter } }) => {
    const proposed = Object.fromEntries(steer.auto.map((name) => [name, steer.attributes[name]]));
    state[letter] = withValues(state[letter], proposed);
    changed();
  });
  window.addEventListener("hashchange", () => {
    fromHash(location.hash);
    show();
  });
}

async function start() {
  const narrow = matchMedia("(max-width: 56rem)");
  const fold = () => {
    byId("panel").open = !narrow.matches;
  };
  fold();
  narrow.addEventListener("change", fold);
  try {
    state.info = await getAttributes();
  } catch (error) {
    byId("alert").textContent = error.message;
    byId("alert").hidden = false;
    return;
  }
  byId("model").textContent = state.info.model;
  document.title = `${state.info.model} · steerlm`;
  state.a = defaults();
  state.b = defaults();
  const open = state.info.data.filter(isOpen);
  state.dial = open.length > 0 ? open[0].name : null;
  document.querySelector("[value=sweep]").disabled = open.length === 0;
  fromHash(location.hash);
  if (open.length === 0 && state.view === "sweep") state.view = "chat";
  load();
  VIEWS.forEach(showEmpty);
  buildPanel(changed);
  connect();
  showConversation();
  document.body.dataset.ready = "true";
  changed();
}

start();
