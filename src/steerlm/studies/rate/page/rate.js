// The page of a rating study. Every text from outside goes through `textContent`; the page's policy forbids markup sinks.
"use strict";

const RETRY_MS = 1500;
const byId = (id) => document.getElementById(id);
const token = location.hash.slice(1);

let study = null; // what is asked, from the server
let item = null; // the item on show
let busy = false; // an item is being saved or fetched: further keys would hit the wrong one
let saving = Promise.resolve(); // ratings in the order given
let unsaved = 0;

// ---- talking to the server

class Refused extends Error {}

async function once(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status >= 500) throw new Error(`the server reports an error (${response.status})`);
  const answer = await response.json();
  if (!response.ok) throw new Refused(typeof answer.detail === "string" ? answer.detail : "the server refused this");
  return answer;
}

// Repeats until the server answers: a vote survives a server that is away for a while.
async function ask(method, path, body) {
  for (;;) {
    try {
      const answer = await once(method, path, body);
      hideAlert();
      return answer;
    } catch (error) {
      if (error instanceof Refused) throw error;
      const what = method === "PUT" ? "Not saved yet" : "Not loaded yet";
      showAlert(`${what}: the server does not answer. Trying again; please leave this page open.`);
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}

// Shown at once, taken back if the server refuses it.
async function save(target, body) {
  const before = { ...target.given };
  target.given[body.attribute ?? ""] = body.value;
  if (body.attribute !== undefined) target.given[""] = "";
  unsaved += 1;
  try {
    Object.assign(study, await ask("PUT", `api/items/${target.position}`, body));
    showProgress();
  } catch (error) {
    target.given = before;
    throw error;
  } finally {
    unsaved -= 1;
  }
}

// ---- showing

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const ROLES = { system: "System prompt", user: "User", assistant: "Assistant" };

function turn(message, withRole) {
  const node = element("div", withRole ? `turn ${message.role}` : "");
  if (withRole) node.append(element("span", "role", ROLES[message.role]));
  const said = element("div", "said", message.content);
  said.dir = "auto";
  node.append(said);
  return node;
}

function answer(messages, title, index) {
  const node = element("article", "answer");
  node.id = `answer-${index + 1}`;
  node.append(element("h2", "", title));
  const turns = element("div", "turns");
  turns.append(...messages.map((message) => turn(message, messages.length > 1)));
  node.append(turns);
  return node;
}

function showItem() {
  const comparing = study.kind === "comparison";
  byId("message").hidden = true;
  byId("item").hidden = byId("controls").hidden = byId("footer").hidden = false;
  byId("item").className = comparing ? "" : "rating";
  byId("context").replaceChildren(...item.context.map((message) => turn(message, true)));
  byId("answers").className = comparing ? "pair" : "";
  const titles = comparing ? ["Answer 1", "Answer 2"] : ["Assistant: rate this answer"];
  byId("answers").replaceChildren(...item.answers.map((messages, i) => answer(messages, titles[i], i)));
  byId("verdicts").hidden = !comparing;
  byId("dials").hidden = comparing;
  if (!comparing) byId("dials").replaceChildren(...study.attributes.map(dial));
  showGiven();
  showProgress();
  window.scrollTo(0, 0);
  byId("main").focus({ preventScroll: true });
  byId("status").textContent = `Item ${item.position + 1} of ${study.total}`;
}

function dial(attribute) {
  const box = element("fieldset");
  box.dataset.attribute = attribute.name;
  box.append(element("legend", "", attribute.name.replaceAll("_", " ")));
  const levels = element("div", "levels");
  if (attribute.description) {
    const about = element("p", "about", attribute.description);
    about.id = `about-${attribute.name}`;
    box.setAttribute("aria-describedby", about.id);
    box.append(about);
  }
  for (const level of attribute.levels) {
    const label = element("label");
    const input = element("input");
    input.type = "radio";
    input.name = attribute.name;
    input.value = String(level);
    input.addEventListener("change", () => rate(attribute, level));
    label.append(input, element("span", "", String(level)));
    levels.append(label);
  }
  box.append(levels);
  return box;
}

function showGiven() {
  for (const button of byId("verdicts").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(item.given[""] === button.dataset.value));
  }
  byId("skip").setAttribute("aria-pressed", String(item.given[""] === "skip"));
  item.answers.forEach((_, i) => {
    const chosen = study.kind === "comparison" && item.given[""] === ["first", "second"][i];
    byId(`answer-${i + 1}`).classList.toggle("chosen", chosen);
  });
  for (const input of byId("dials").querySelectorAll("input")) {
    input.checked = String(item.given[input.name] ?? item.prefill?.[input.name]) === input.value;
  }
  showNow();
}

function showProgress() {
  byId("progress").hidden = false;
  byId("bar").max = study.total;
  byId("bar").value = study.done;
  byId("count").textContent = `${study.done} of ${study.total} done`;
  document.title = `${study.done} of ${study.total} · Rating`;
  byId("back").disabled = item === null ? study.total === 0 : item.position === 0;
  byId("next").disabled = item === null || !complete();
  byId("skip").disabled = item === null;
}

function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
  byId("item").hidden = byId("verdicts").hidden = true;
  byId("main").focus();
}

function showAlert(text) {
  byId("alert").textContent = text;
  byId("alert").hidden = false;
}

function hideAlert() {
  byId("alert").hidden = true;
}

// ---- moving and answering

const complete = () =>
  item.given[""] === "skip" ||
  (study.kind === "comparison" ? item.given[""] !== undefined : missing().length === 0);

const unsaid = () => study.attributes.filter((attribute) => item.given[attribute.name] === undefined);
const missing = () => unsaid().filter((attribute) => item.prefill?.[attribute.name] === undefined);

// One thing at a time: what is pressed meanwhile is dropped, never applied to the next item.
async function alone(action) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    await saving;
    await action();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showAlert(error.message);
    if (item !== null) showGiven();
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

async function go(position) {
  if (position >= study.total) {
    item = null;
    byId("controls").hidden = byId("footer").hidden = false;
    showProgress();
    showMessage("All done. Thank you! Everything is saved; you may close this page.");
    return;
  }
  item = await ask("GET", `api/items/${position}`);
  showItem();
}

const decide = (value) =>
  alone(async () => {
    const saved = save(item, { value });
    showGiven();
    await saved;
    await go(study.next);
  });

const back = () =>
  alone(async () => {
    if (item?.position !== 0) await go(item === null ? study.total - 1 : item.position - 1);
  });

const forward = () =>
  alone(async () => {
    if (item === null) return;
    if (complete()) {
      await confirmPrefilled();
      const last = item.position + 1 === study.total;
      await go(last ? study.next : item.position + 1);
      return;
    }
    if (study.kind === "comparison") return;
    showAlert(`Still to rate: ${missing().map((attribute) => attribute.name.replaceAll("_", " ")).join(", ")}`);
    boxOf(missing()[0].name).querySelector("input").focus();
  });

// What was filled in before counts once somebody goes on with it.
async function confirmPrefilled() {
  if (study.kind === "comparison" || item.given[""] === "skip") return;
  for (const { name } of unsaid()) await save(item, { attribute: name, value: item.prefill?.[name] });
}

// Ratings of one item are queued, so that quick typing loses none and the last word is the last to arrive.
function rate(attribute, level) {
  const target = item;
  const earlier = saving;
  const saved = (async () => {
    await earlier;
    await save(target, { attribute: attribute.name, value: level });
  })();
  target.given[attribute.name] = level;
  saving = saved
    .then(() => {
      byId("status").textContent = `${attribute.name} ${level} saved`;
    })
    .catch((error) => {
      if (!(error instanceof Refused)) throw error;
      showAlert(error.message);
    })
    .then(() => {
      if (item === target) showGiven();
    });
}

const boxOf = (name) => byId("dials").querySelector(`[data-attribute="${name}"]`);

// The attribute that the next digit is for: the one with the focus, else the first that is not rated.
function now() {
  const focused = document.activeElement?.closest("fieldset");
  if (focused) return study.attributes.find((attribute) => attribute.name === focused.dataset.attribute);
  return study.attributes.find((attribute) => !boxOf(attribute.name).querySelector("input:checked"));
}

function showNow() {
  if (study?.kind !== "rating" || item === null) return;
  const current = now();
  for (const box of byId("dials").children) box.classList.toggle("now", box.dataset.attribute === current?.name);
}

function digit(key) {
  const attribute = now();
  if (attribute === undefined || busy) return;
  const number = typeof attribute.levels[0] === "number";
  const index = number ? attribute.levels.indexOf(Number(key)) : Number(key) - 1;
  const input = boxOf(attribute.name).querySelectorAll("input")[index];
  if (input === undefined) return;
  input.checked = true;
  rate(attribute, attribute.levels[index]);
  const following = study.attributes[study.attributes.indexOf(attribute) + 1];
  const box = following === undefined ? boxOf(attribute.name) : boxOf(following.name);
  (box.querySelector("input:checked") ?? box.querySelector("input")).focus();
  showNow();
}

// ---- keyboard

const VERDICT_KEYS = { 1: "first", 2: "second", 3: "tie" };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (!byId("shortcuts").checked || study === null) return;
  const key = event.key.toLowerCase();
  if (key === "u") back();
  else if (key === "s" && item !== null) decide("skip");
  else if (key === "enter" && !event.target.closest("button")) forward();
  else if (item !== null && study.kind === "comparison" && key in VERDICT_KEYS) decide(VERDICT_KEYS[key]);
  else if (item !== null && study.kind === "rating" && /^[0-9]$/.test(key)) digit(key);
  else return;
  event.preventDefault();
}

function showKeys() {
  const verdicts = [["1", "answer 1"], ["2", "answer 2"], ["3", "tie"]];
  const ratings = [["0–9", "rate the marked attribute (a category: its place)"], ["Tab", "next attribute"], ["← →", "other level"]];
  const keys = [...(study.kind === "comparison" ? verdicts : ratings), ["Enter", "next"], ["s", "skip"], ["u", "back"]];
  byId("keys").replaceChildren(...keys.flatMap(([key, does]) => [element("kbd", "", key), ` ${does} `]));
}

function setShortcuts(on) {
  byId("shortcuts").checked = on;
  document.body.classList.toggle("no-shortcuts", !on);
}

// ---- start

async function start() {
  setShortcuts(localStorage.getItem("shortcuts") !== "off");
  byId("shortcuts").addEventListener("change", (event) => {
    setShortcuts(event.target.checked);
    localStorage.setItem("shortcuts", event.target.checked ? "on" : "off");
  });
  for (const button of byId("verdicts").querySelectorAll("button")) {
    button.addEventListener("click", () => decide(button.dataset.value));
  }
  byId("back").addEventListener("click", back);
  byId("skip").addEventListener("click", () => decide("skip"));
  byId("next").addEventListener("click", forward);
  document.addEventListener("keydown", onKey);
  document.addEventListener("focusin", showNow);
  window.addEventListener("hashchange", () => location.reload());
  window.addEventListener("beforeunload", (event) => { if (unsaved > 0) event.preventDefault(); });
  try {
    study = await ask("GET", "api/study");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    showMessage("This invitation link is not valid. Please ask whoever sent it for a new one.");
    return;
  }
  byId("question").textContent = study.question;
  byId("annotator").textContent = study.annotator;
  showKeys();
  await alone(() => go(study.next));
}

start();
