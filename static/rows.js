// Rows of a list: the keyboard's cursor, the selection, and the bar that acts on it. Known by id, so both survive frames.
import { $, $$ } from "./page.js";

let cursor = ""; // the row's id
let anchor; // what the last click or x chose, for shift

export const rowsIn = (root) => $$("[data-row]", root);
const list = () => $("[data-list]");
export const chosen = () => $$("[data-row] .chk:checked");
export const cursorRow = () => (cursor ? document.getElementById(cursor) : null);

export function startRows() {
  document.addEventListener("change", ({ target }) => {
    if (target.matches("[data-everything]") && target.checked) chooseAll();
    else if (target.matches("[data-row] .chk, [data-all]")) for (const box of $$("[data-everything]")) box.checked = false;
    if (target.matches("[data-all]")) for (const box of $$("[data-row] .chk", list())) box.checked = target.checked;
    if (target.matches(".chk")) paintRows();
  });
  document.addEventListener("click", ({ target, shiftKey }) => {
    if (target.closest("[data-clear]")) clearRows();
    const row = target.matches?.("[data-row] .chk") && target.closest("[data-row]");
    if (!row) return;
    if (shiftKey && anchor) chooseBetween(anchor, row.id, target.checked);
    anchor = row.id;
    paintRows();
  });
  document.addEventListener("umbel:answered", clearRows);
  paintRows();
}

/** Everything that follows from the cursor and the ticked boxes. Safe to call at any time. */
export function paintRows() {
  const all = rowsIn(document);
  for (const row of all) {
    row.classList.toggle("is-cursor", row.id === cursor && cursor !== "");
    const box = $(".chk", row);
    if (box?.checked) row.setAttribute("aria-selected", "true");
    else row.removeAttribute("aria-selected");
  }
  const count = chosen().length;
  for (const box of $$("[data-all]")) {
    box.checked = count > 0 && count === all.length;
    box.indeterminate = count > 0 && count < all.length;
  }
  for (const bar of $$("[data-bulk]")) {
    const everything = $("[data-everything]", bar)?.checked;
    const total = $(bar.dataset.total ?? "#none")?.firstChild?.textContent.trim() ?? "";
    bar.hidden = count === 0 && !everything;
    for (const words of $$("[data-bulk-count]", bar)) words.textContent = everything ? `${total || "All"} that match` : `${count} selected`;
    for (const words of $$("[data-everything-words]", bar)) words.textContent = total && !everything ? `All ${total} that match` : "All that match";
  }
}

/** shift x: all that match the filter, also those that are not shown. The server counts them, and asks. */
export function chooseEverything() {
  const box = $("[data-everything]:not(:disabled)");
  if (!box) return;
  box.checked = !box.checked;
  if (box.checked) chooseAll();
  paintRows();
}

function chooseAll() {
  for (const row of rowsIn(list() ?? document)) tick(row, true);
}

/** shift space: from the row that was chosen last to the one under the cursor, or under the focus. */
export function chooseUpTo(focused) {
  const row = focused ?? cursorRow();
  if (!row) return;
  cursor = row.id;
  if (anchor) chooseBetween(anchor, row.id, true);
  else tick(row, true);
  anchor = row.id;
  paintRows();
}

export function moveCursor(step, extend) {
  const rows = rowsIn(list() ?? document);
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.id === cursor);
  const next = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + step))];
  if (extend) {
    tick(cursorRow(), true);
    tick(next, true);
    anchor ??= cursor || next.id;
  }
  cursor = next.id;
  next.scrollIntoView({ block: "nearest" });
  paintRows();
}

export function chooseRow() {
  const row = cursorRow();
  if (!row) return;
  tick(row);
  anchor = row.id;
  paintRows();
}

export function openRow() {
  $("a[href]", cursorRow() ?? document.createElement("i"))?.click();
}

/** Escape first lets the selection go, then the cursor; true when there was something to let go. */
export function clearRows() {
  const boxes = chosen();
  for (const box of [...boxes, ...$$("[data-everything]")]) box.checked = false;
  const had = boxes.length > 0 || cursor !== "";
  if (!boxes.length) cursor = "";
  paintRows();
  return had;
}

function tick(row, on) {
  const box = row && $(".chk", row);
  if (box) box.checked = on ?? !box.checked;
}

function chooseBetween(from, to, on) {
  const rows = rowsIn(list() ?? document);
  const [a, b] = [from, to].map((id) => rows.findIndex((row) => row.id === id)).sort((x, y) => x - y);
  if (a >= 0) for (const row of rows.slice(a, b + 1)) tick(row, on);
}
