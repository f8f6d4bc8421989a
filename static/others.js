// What other operators do is told in passing: never one's own act, never twice, and nothing older than this visit.
import { $, $$ } from "./page.js";

const KEY = "umbel-others"; // the time of the newest act that was told, for this tab
const MOST = 3;

export function startOthers() {
  if (!$("#others")) return;
  // By the server's clock, as of this page.
  if (!toldUntil()) tellUntil(Number($("#toasts").dataset.now));
  document.addEventListener("umbel:swapped", tell);
  tell();
}

function tell() {
  const toasts = $("#toasts");
  const before = toldUntil();
  for (const act of $$("#others > li").reverse()) {
    if (act.dataset.by === toasts.dataset.me) continue;
    const id = act.id.replace("other-", "told-");
    const shown = document.getElementById(id);
    if (!shown && Number(act.dataset.at) <= before) continue;
    const toast = Object.assign(act.firstElementChild.cloneNode(true), { id, age: 0 });
    if (!shown) toasts.append(toast);
    else if (shown.dataset.state !== toast.dataset.state) shown.replaceWith(toast);
  }
  tellUntil(Math.max(before, newest()));
  for (const old of $$(".is-quiet", toasts).slice(0, -MOST)) old.remove();
}

const newest = () => Math.max(0, ...$$("#others > li").map((act) => Number(act.dataset.at)));

let until = 0; // where the browser keeps nothing

function toldUntil() {
  try {
    return Number(sessionStorage.getItem(KEY)) || until;
  } catch {
    return until;
  }
}

function tellUntil(at) {
  until = at;
  try {
    sessionStorage.setItem(KEY, at);
  } catch {
    // Then a page of its own tells it again.
  }
}
