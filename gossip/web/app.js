// Which page is shown, and when it asks again.

import { NoToken, ask, follow, keepToken, takeToken, token } from "./api.js";
import { make, title } from "./format.js";
import * as learning from "./learning.js";
import * as logs from "./logs.js";
import * as network from "./network.js";
import * as overview from "./overview.js";
import * as peers from "./peers.js";
import * as security from "./security.js";
import * as predicting from "./predicting.js";

const PAGES = { overview, network, peers, learning, try: predicting, security, logs };
const main = document.getElementById("main");
const notice = document.getElementById("notice");
let shown = null; // the page, with what it drew
let named = false; // whether the head of the page says whose it is
let answered = Date.now();

function wanted() {
  const name = location.hash.slice(1);
  return name in PAGES ? name : "overview";
}

async function show() {
  const name = wanted();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  shown?.close?.();
  shown = null;
  main.replaceChildren();
  if (!token()) return login();
  shown = PAGES[name].open(main);
  shown.name = name;
  document.title = `${main.querySelector("h1").textContent} · gossip-learning`;
  await update();
}

async function update() {
  if (!shown || document.hidden) return;
  const current = shown;
  try {
    await current.update();
    if (!named) await name();
    answered = Date.now();
    say("");
  } catch (error) {
    if (error instanceof NoToken) return login("The node refuses the token: it has started again, or another node has.");
    const silent = Math.round((Date.now() - answered) / 1000);
    say(error instanceof TypeError ? `No answer from the node for ${silent} s; what you see is that old.` : error.message);
  }
}

async function name() {
  const known = await ask("roster");
  const me = known.roster.find((peer) => peer.id === known.id);
  document.getElementById("who").textContent = me?.name || known.id.slice(0, 8);
  named = Boolean(me);
}

function say(text) {
  notice.hidden = !text;
  if (notice.textContent !== text) notice.textContent = text;
}

function login(why = "") {
  shown?.close?.();
  shown = null;
  say(why);
  const field = make("input", { type: "password", id: "token", autocomplete: "off", required: true });
  main.replaceChildren(
    title("The node's token"),
    make("p", {}, "Open the address that ", make("code", {}, "gossip dashboard --state-dir DIR"),
      " prints, or give the token in the file api.json in the state directory."),
    make("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); keepToken(field.value); show(); } },
      make("label", { for: "token" }, "Token"), field, make("button", { class: "main" }, "Open")));
}

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) takeToken();
  else if (location.hash === "#main") return main.focus();
  show();
});
document.addEventListener("visibilitychange", update);
takeToken();
show();
follow((told) => shown?.heard?.(told));
setInterval(update, 2000);
