// The panel: a row per dial with a slider per setting, presets, decoding.

import { defaults, element, follows, isOpen, presetSetting, state, titled } from "./settings.js";

const rows = []; // functions that show the state anew
let changed = () => {};

const letters = () => (state.view === "compare" ? ["a", "b"] : ["a"]);

// Why a dial cannot be turned, or not all the way.
function lockText(attribute) {
  if (attribute.locked) return `Fixed at ${attribute.default} by the operator.`;
  if (attribute.kind === "categorical") return "";
  const bounded = attribute.lowest > attribute.minimum || attribute.highest < attribute.maximum;
  return bounded ? `The operator allows ${attribute.lowest} to ${attribute.highest}.` : "";
}

function slider(id, label, { lowest, highest, step, get, set }) {
  const input = element("input", { type: "range", id, "aria-label": label, min: lowest, max: highest, step });
  const output = element("output", { htmlFor: id, className: "value" });
  input.addEventListener("input", () => {
    set(Number(input.value));
    changed();
  });
  rows.push(() => {
    input.step = typeof step === "function" ? step() : step;
    input.value = get();
    output.textContent = String(get());
  });
  input.step = typeof step === "function" ? step() : step;
  return [input, output];
}

function choice(id, label, { options, get, set }) {
  const select = element("select", { id, "aria-label": label }, ...options.map((o) => element("option", { value: o }, o)));
  select.addEventListener("change", () => {
    set(select.value);
    changed();
  });
  rows.push(() => {
    select.value = get();
  });
  return [select];
}

function track(letter, id, name, control) {
  const label = element("span", { className: `letter ${letter}`, "aria-hidden": "true" }, letter.toUpperCase());
  const node = element("div", { className: `track ${letter}` }, label, ...control);
  const input = control[0];
  rows.push(() => {
    const both = state.view === "compare";
    node.hidden = letter === "b" && !both;
    input.setAttribute("aria-label", both ? `${titled(name)}, setting ${letter.toUpperCase()}` : titled(name));
  });
  return node;
}

// The levels below a slider, with the words for its ends where the schema has them.
function scale(attribute, lowest, highest) {
  const marks = [];
  const { low, high } = attribute;
  if (low || high) {
    const ends = [`${lowest} ${lowest === attribute.minimum ? low ?? "" : ""}`, `${highest === attribute.maximum ? high ?? "" : ""} ${highest}`];
    return element("div", { className: "scale words" }, ...ends.map((end) => element("span", {}, end.trim())));
  }
  for (let level = lowest; level <= highest; level += 1) marks.push(element("span", {}, String(level)));
  return element("div", { className: "scale", "aria-hidden": "true" }, ...marks);
}

function dialRow(attribute) {
  const { name } = attribute;
  const about = [attribute.description, lockText(attribute)].filter(Boolean).join(" ");
  const node = element("div", { className: "dial" });
  node.dataset.name = name;
  node.append(element("h3", {}, titled(name)));
  const help = element("p", { id: `about-${name}`, className: "about", title: about }, about);
  if (about) node.append(help);
  for (const letter of ["a", "b"]) {
    const id = `${letter}-${name}`;
    const get = () => state[letter].values[name];
    const set = (value) => {
      const turned = [...new Set([...state[letter].turned, name])];
      state[letter] = { ...state[letter], values: { ...state[letter].values, [name]: value }, preset: null, turned };
    };
    const control =
      attribute.kind === "categorical"
        ? choice(id, name, { options: attribute.categories, get, set })
        : slider(id, name, {
            // a dial that cannot be turned shows where it stands on its scale
            lowest: attribute.locked ? attribute.minimum : attribute.lowest,
            highest: attribute.locked ? attribute.maximum : attribute.highest,
            step: () => (state.halves ? 0.5 : 1),
            get,
            set,
          });
    control[0].disabled = !isOpen(attribute);
    if (about) control[0].setAttribute("aria-describedby", help.id);
    const line = track(letter, id, name, control);
    rows.push(() => line.classList.toggle("follows", isOpen(attribute) && follows(state[letter], name)));
    node.append(line);
  }
  if (attribute.kind === "ordinal") {
    const [low, high] = attribute.locked ? [attribute.minimum, attribute.maximum] : [attribute.lowest, attribute.highest];
    if (attribute.low || attribute.high || high - low <= 10) node.append(scale(attribute, low, high));
  }
  if (attribute.locked) node.classList.add("locked");
  return node;
}

function strengthRow() {
  const node = element("div", { className: "dial" }, element("h3", {}, "strength"));
  const own = state.info.data.filter((attribute) => attribute.strength !== 1);
  const said = own.map(({ name, strength }) => `${titled(name)} × ${strength}`).join(", ");
  const one = said ? `1 is as the model says (${said})` : "1 is ordinary";
  const text = `How strongly the dials count: ${one}, 0 is as if nothing were set.`;
  node.append(element("p", { id: "about-strength", className: "about" }, text));
  for (const letter of ["a", "b"]) {
    const control = slider(`${letter}.strength`, "strength", {
      lowest: 0, highest: state.info.guidance.maximum, step: 0.25,
      get: () => state[letter].strength,
      set: (value) => {
        state[letter] = { ...state[letter], strength: value };
      },
    });
    control[0].setAttribute("aria-describedby", "about-strength");
    node.append(track(letter, `${letter}.strength`, "strength", control));
  }
  return node;
}

function decodingRow(id, title, text, options) {
  const control = slider(id, title, options);
  control[0].setAttribute("aria-describedby", `about-${id}`);
  const node = element("div", { className: "dial" }, element("h3", {}, title));
  node.append(element("p", { id: `about-${id}`, className: "about" }, text), element("div", { className: "track" }, ...control));
  return node;
}

function decoding() {
  const nodes = state.info.guidance ? [strengthRow()] : [];
  nodes.push(
    decodingRow("temperature", "temperature", "How freely the model chooses words; 0 always takes the likeliest.", {
      lowest: 0, highest: 2, step: 0.1, get: () => state.temperature,
      set: (value) => {
        state.temperature = value;
      },
    }),
  );
  if (state.info.scores) {
    nodes.push(
      decodingRow("best-of", "best of", "Draws so many answers and shows the one that is nearest to the dials.", {
        lowest: 1, highest: 8, step: 1, get: () => state.bestOf,
        set: (value) => {
          state.bestOf = value;
        },
      }),
    );
  }
  if (state.info.demonstrations > 0) {
    nodes.push(
      decodingRow("demonstrations", "demonstrations", "Shows the model so many training answers near the dials.", {
        lowest: 0, highest: state.info.demonstrations, step: 1, get: () => state.demonstrations,
        set: (value) => {
          state.demonstrations = value;
        },
      }),
    );
  }
  const halves = element("input", { type: "checkbox", id: "halves" });
  halves.addEventListener("change", () => {
    state.halves = halves.checked;
    changed();
  });
  rows.push(() => {
    halves.checked = state.halves;
  });
  if (state.info.guidance) {
    nodes.push(element("label", { className: "check" }, halves, " Half steps: values between two levels"));
  }
  return nodes;
}

function presetButtons() {
  const about = document.getElementById("preset-about");
  return state.info.presets.map((preset) => {
    const button = element("button", { type: "button", title: preset.description }, preset.name.replaceAll("-", " "));
    button.addEventListener("click", () => {
      const letter = state.view === "compare" ? state.target : "a";
      state[letter] = presetSetting(preset);
      changed();
    });
    rows.push(() => {
      const letter = state.view === "compare" ? state.target : "a";
      const pressed = state[letter].preset === preset.name;
      button.setAttribute("aria-pressed", String(pressed));
      if (pressed) about.textContent = preset.description;
    });
    return button;
  });
}

// The setting in a line: all open dials, or those in which A and B differ.
function summary() {
  const open = state.info.data.filter(isOpen).map(({ name }) => name);
  if (state.view !== "compare") return open.map((name) => `${titled(name)} ${state.a.values[name]}`).join(" · ");
  const apart = open.filter((name) => state.a.values[name] !== state.b.values[name]);
  const both = apart.map((name) => `${titled(name)} ${state.a.values[name]} | ${state.b.values[name]}`);
  return both.join(" · ") || "A and B are the same";
}

// Build the panel; `onChange` is called whenever a person changes something.
export function buildPanel(onChange) {
  changed = onChange;
  rows.length = 0;
  document.getElementById("dials").replaceChildren(...state.info.data.map(dialRow));
  document.getElementById("decoding").replaceChildren(...decoding());
  document.getElementById("presets").replaceChildren(...presetButtons());
  document.getElementById("presets-section").hidden = state.info.presets.length === 0;
  const swept = state.info.data.filter(isOpen).map(({ name }) => element("option", { value: name }, titled(name)));
  document.getElementById("dial").replaceChildren(...swept);
  const auto = document.getElementById("auto");
  document.getElementById("auto-row").hidden = !state.info.auto;
  auto.onchange = () => {
    state.auto = auto.checked;
    for (const letter of ["a", "b"]) state[letter] = { ...state[letter], turned: [] };
    changed();
  };
  rows.push(() => {
    auto.checked = state.auto;
  });
  document.getElementById("reset").onclick = () => {
    for (const letter of letters()) state[letter] = defaults();
    changed();
  };
}

export function showPanel() {
  document.getElementById("preset-about").textContent = "";
  for (const row of rows) row();
  document.getElementById("targets").hidden = state.view !== "compare";
  document.getElementById("summary").textContent = summary();
  document.getElementById("dial").value = state.dial;
  for (const row of document.querySelectorAll("#dials .dial")) {
    row.classList.toggle("swept", state.view === "sweep" && row.dataset.name === state.dial);
  }
}
