// Conversations of the chat, kept in this browser only: until they are deleted, or with an API key until the tab is closed.

import { hasKey } from "./api.js";

const KEY = "steerlm.conversations";
const MOST = 50;

const store = () => (hasKey() ? sessionStorage : localStorage);

export const conversations = []; // newest first: { id, system, turns: [{ question, text, attributes, left }] }
export let current = null;

export function begin() {
  current = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), system: current?.system ?? "", turns: [] };
}

export function open(id) {
  current = conversations.find((conversation) => conversation.id === id) ?? current;
}

export function load() {
  try {
    const kept = JSON.parse(store().getItem(KEY) ?? "[]");
    conversations.splice(0, Infinity, ...kept.filter(({ id, turns }) => typeof id === "string" && Array.isArray(turns)));
  } catch {
    conversations.length = 0; // not ours, or cut off: begin anew
  }
  begin();
}

export function save() {
  const others = conversations.filter(({ id }) => id !== current.id);
  conversations.splice(0, Infinity, ...(current.turns.length > 0 ? [current] : []), ...others);
  conversations.length = Math.min(conversations.length, MOST);
  for (;;) {
    try {
      if (conversations.length > 0) store().setItem(KEY, JSON.stringify(conversations));
      else store().removeItem(KEY);
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError" || conversations.length < 2) return; // kept while the page is open
      conversations.pop(); // the browser's room is full: the oldest goes
    }
  }
}

export function remove(id) {
  const place = conversations.findIndex((conversation) => conversation.id === id);
  if (place >= 0) conversations.splice(place, 1);
  if (current.id === id) begin();
  save();
}

export const titleOf = ({ turns }) => turns[0]?.question.slice(0, 60) ?? "New conversation";
