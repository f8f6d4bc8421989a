// One-letter shortcuts: never while typing, never with a modifier, and off with localStorage "umbel-keys" = "off".
import { $, $$, flipTheme, openDialog } from "./page.js";
import { chooseEverything, chooseRow, chooseUpTo, chosen, clearRows, cursorRow, moveCursor, openRow } from "./rows.js";
import { showNewer, togglePause } from "./live.js";

const LINKS = { o: "overview", t: "tasks", w: "workers", l: "audit", f: "feed" };
let pressedG = -Infinity;

const KEYS = {
  "?": () => openDialog("#keys"),
  "/": () => openDialog("#find"),
  t: flipTheme,
  f: () => $(".filters input:not([type=checkbox]):not([type=hidden]), .filters select")?.focus(),
  j: () => moveCursor(1),
  k: () => moveCursor(-1),
  J: () => moveCursor(1, true),
  K: () => moveCursor(-1, true),
  x: chooseRow,
  X: chooseEverything,
  r: () => act("r"),
  R: () => act("R"),
  e: () => act("e"),
  ".": showNewer,
  " ": togglePause,
  Enter: openRow,
  Escape: clearRows,
};

// With shift, also while a row's box has the focus.
const SHIFTED = {
  ArrowDown: () => moveCursor(1, true),
  ArrowUp: () => moveCursor(-1, true),
  " ": (row) => chooseUpTo(row),
};

export function startKeys() {
  startSwitch();
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    // By shift, whatever caps lock says.
    const key = /^[a-z]$/i.test(event.key) ? event.key[event.shiftKey ? "toUpperCase" : "toLowerCase"]() : event.key;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !areOn()) return;
    if (target.closest("input:not([type=checkbox],[type=radio]),textarea,select,[contenteditable]")) return;
    if ($("dialog[open]")) return;
    if (event.shiftKey && SHIFTED[event.key] && $("[data-list] .chk")) {
      event.preventDefault();
      return SHIFTED[event.key](target.closest("[data-row]"));
    }
    // Space and enter belong to what has the focus.
    if ((key === " " || key === "Enter") && target.closest("button,a,summary,input,label,[role=tab]")) return;
    if (event.timeStamp - pressedG < 1000 && LINKS[key]) {
      event.preventDefault();
      pressedG = -Infinity;
      return $(`[data-go="${LINKS[key]}"], .nav a[href$="/${LINKS[key] === "overview" ? "" : LINKS[key] + "/"}"]`)?.click();
    }
    pressedG = key === "g" ? event.timeStamp : -Infinity;
    const action = Object.hasOwn(KEYS, key) && KEYS[key];
    if (!action || (key === " " && !$("[data-pause]"))) return;
    if (key !== "Escape") event.preventDefault();
    action();
  });
}

/** They can be turned off, for those who speak to their computer (WCAG 2.1.4); the dialog opens by its button too. */
function startSwitch() {
  const tell = () => $$("[data-keys-toggle] span").forEach((words) => (words.textContent = `Turn shortcuts ${areOn() ? "off" : "on"}`));
  document.addEventListener("click", ({ target }) => {
    if (!target.closest("[data-keys-toggle]")) return;
    localStorage.setItem("umbel-keys", areOn() ? "off" : "on");
    tell();
  });
  tell();
}

function areOn() {
  try {
    return localStorage.getItem("umbel-keys") !== "off";
  } catch {
    return true;
  }
}

/** Presses the button of that key: for the selection, else for the row under the cursor, else for the page's one thing. */
function act(key) {
  const row = cursorRow();
  if (!chosen().length && row) chooseRow();
  const bar = chosen().length ? "[data-bulk] " : "";
  $(`${bar}[data-key="${key}"]:not(:disabled)`)?.click();
}
