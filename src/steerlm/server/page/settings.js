// What is set: two settings (A and, in the comparison, B), the view and the decoding; and its form as a link.

export const state = {
  info: null, // of /v1/attributes
  view: "chat",
  target: "a", // which setting presets go to
  a: null,
  b: null,
  dial: null, // the swept one
  temperature: 0.7,
  bestOf: 1,
  halves: false,
  auto: false, // dials that nobody turned follow from the question
  demonstrations: 0,
};

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text, never markup
  return node;
}

export function titled(name) {
  return name.replaceAll("_", " ");
}

export const isOpen = (attribute) => !attribute.locked;

const MOST_LEVELS = 11;

// The levels of a sweep: all of them, or of a long scale some that lie evenly.
export function levels(attribute) {
  if (attribute.kind === "categorical") return attribute.categories;
  const steps = attribute.highest - attribute.lowest;
  const count = Math.min(steps + 1, MOST_LEVELS);
  return Array.from({ length: count }, (_, i) => attribute.lowest + (count === 1 ? 0 : Math.round((i * steps) / (count - 1))));
}

export function defaults() {
  const values = {};
  for (const attribute of state.info.data) values[attribute.name] = attribute.default;
  return { values, strength: 1, preset: null, turned: [] };
}

// The nearest value that may be asked for; undefined where there is none.
function fitting(attribute, value) {
  if (!isOpen(attribute)) return undefined;
  if (attribute.kind === "categorical") return attribute.categories.includes(value) ? value : undefined;
  const number = typeof value === "number" ? value : Number.parseFloat(value);
  if (!Number.isFinite(number)) return undefined;
  const steps = state.info.guidance ? 2 : 1; // between levels only where logits can be mixed
  return Math.min(Math.max(Math.round(number * steps) / steps, attribute.lowest), attribute.highest);
}

export function withValues(setting, wishes) {
  const values = { ...setting.values };
  for (const attribute of state.info.data) {
    if (!Object.hasOwn(wishes, attribute.name)) continue;
    const value = fitting(attribute, wishes[attribute.name]);
    if (value !== undefined) values[attribute.name] = value;
  }
  return { ...setting, values };
}

export function presetSetting(preset) {
  return { ...withValues(defaults(), preset.attributes), preset: preset.name, turned: Object.keys(preset.attributes) };
}

// Whether a dial is left to the question.
export const follows = (setting, name) => state.auto && !setting.turned.includes(name);

// The body of a request; locked attributes are left to the server.
export function requestBody(setting, messages, seed) {
  const attributes = {};
  for (const attribute of state.info.data) {
    if (isOpen(attribute) && !follows(setting, attribute.name)) attributes[attribute.name] = setting.values[attribute.name];
  }
  const steer = { attributes };
  if (setting.preset !== null) steer.preset = setting.preset;
  if (state.auto) steer.auto = true;
  if (state.demonstrations > 0) steer.demonstrations = state.demonstrations;
  if (setting.strength !== 1) steer.guidance = setting.strength;
  if (state.info.scores) steer.return_scores = true;
  if (state.info.scores && state.bestOf > 1) steer.best_of = state.bestOf;
  return { model: state.info.model, messages, temperature: state.temperature, seed, steer };
}

function settingParts(letter, setting) {
  const values = state.info.data.filter(isOpen).map(({ name }) => `${name}:${setting.values[name]}`);
  const parts = [[letter, values.join(",")]];
  if (setting.strength !== 1) parts.push([`${letter}.strength`, setting.strength]);
  if (setting.preset !== null) parts.push([`${letter}.preset`, setting.preset]);
  return parts;
}

export function toHash() {
  const parts = [["view", state.view], ...settingParts("a", state.a)];
  if (state.view === "compare") parts.push(...settingParts("b", state.b));
  if (state.view === "sweep" && state.dial) parts.push(["dial", state.dial]);
  parts.push(["temperature", state.temperature]);
  if (state.bestOf > 1) parts.push(["best_of", state.bestOf]);
  if (state.auto) parts.push(["auto", state.a.turned.join(",")]);
  if (state.demonstrations > 0) parts.push(["demonstrations", state.demonstrations]);
  // names and values are letters, digits and _ . + -, so that a link stays readable
  return "#" + parts.map(([name, value]) => `${name}=${encodeURIComponent(value).replace(/%(3A|2C)/g, decodeURIComponent)}`).join("&");
}

function within(text, lowest, highest, otherwise) {
  const number = Number.parseFloat(text);
  return Number.isFinite(number) ? Math.min(Math.max(number, lowest), highest) : otherwise;
}

// Take a link's settings; what this model does not know, or does not allow, is left out.
export function fromHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, "").replaceAll("+", "%2B"));
  if (["chat", "compare", "sweep"].includes(given.get("view"))) state.view = given.get("view");
  for (const letter of ["a", "b"]) {
    if (!given.has(letter)) continue;
    const pairs = given.get(letter).split(",").map((pair) => pair.split(":"));
    const setting = withValues(defaults(), Object.fromEntries(pairs.filter((pair) => pair.length === 2)));
    const known = state.info.presets.some(({ name }) => name === given.get(`${letter}.preset`));
    setting.preset = known ? given.get(`${letter}.preset`) : null;
    if (state.info.guidance) setting.strength = within(given.get(`${letter}.strength`), 0, state.info.guidance.maximum, 1);
    state[letter] = setting;
    const between = Object.values(setting.values).some((value) => typeof value === "number" && !Number.isInteger(value));
    if (between && state.info.guidance) state.halves = true;
  }
  if (state.info.data.some(({ name }) => name === given.get("dial"))) state.dial = given.get("dial");
  state.temperature = within(given.get("temperature"), 0, 2, state.temperature);
  state.auto = state.info.auto && given.has("auto");
  if (state.auto && state.a) state.a = { ...state.a, turned: given.get("auto").split(",").filter((name) => name in state.a.values) };
  state.demonstrations = Math.round(within(given.get("demonstrations"), 0, state.info.demonstrations, state.demonstrations));
  state.bestOf = Math.round(within(given.get("best_of"), 1, 8, state.bestOf));
}
