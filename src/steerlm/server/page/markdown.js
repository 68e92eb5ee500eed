// Markdown of an answer, as elements: the parser gives tokens and never markup, and only the elements below are made.

import "./vendor/markdown-it.js";
import { element } from "./settings.js";

const parser = globalThis.markdownit({ html: false, linkify: false, breaks: true });
const TAGS = new Set("p h1 h2 h3 h4 h5 h6 ul ol li blockquote table thead tbody tr th td strong em s".split(" "));
const SAFE = /^(https?:|mailto:)/i;

const code = (token) => element("code", {}, token.content);

// A link that says where it leads; what a model wrote may lead anywhere, so nothing of this page goes along.
function link(token) {
  const href = token.attrGet("href") ?? "";
  return SAFE.test(href) ? element("a", { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" }) : element("span");
}

const LEAVES = {
  text: (token) => token.content,
  softbreak: () => "\n",
  hardbreak: () => element("br"),
  code_inline: code,
  code_block: (token) => element("pre", { dir: "ltr" }, code(token)),
  fence: (token) => element("pre", { dir: "ltr" }, code(token)),
  hr: () => element("hr"),
  image: (token) => `[${token.content}]`, // pictures from elsewhere are not loaded
};

function grow(root, tokens) {
  const open = [root];
  for (const token of tokens) {
    const place = open.at(-1);
    if (token.type === "inline") grow(place, token.children);
    else if (token.nesting < 0) open.pop();
    else if (token.nesting > 0) {
      const node = token.type === "link_open" ? link(token) : element(TAGS.has(token.tag) ? token.tag : "span");
      if (token.hidden) open.push(place); // a paragraph of a tight list
      else {
        if (token.attrGet("start")) node.start = Number(token.attrGet("start"));
        if (token.tag === "table") place.append(element("div", { className: "wide", tabIndex: 0 }, node));
        else place.append(node);
        open.push(node);
      }
    } else place.append(LEAVES[token.type]?.(token) ?? token.content);
  }
}

export function render(text) {
  const fragment = document.createDocumentFragment();
  grow(fragment, parser.parse(text, {}));
  return fragment;
}
