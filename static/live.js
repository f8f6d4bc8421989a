// The live page: one socket, one region a frame, nothing moves under the hand.
// hx-ws opens the socket, closes it in hidden tabs and comes back with growing delays (never after 1000 or 4xxx).
// A message is {seq, after, now, frames}; a frame {region, target, swap, content, held?} or {region, data}.
import { $, $$, clock, tellAges } from "./page.js";
import { paintRows, rowsIn } from "./rows.js";

const waiting = new Map(); // region → its newest frame, while paused or held
const newer = new Map(); // region → ids of rows that a held list does not show yet
let element, connection, seq, lostAt, nextTry, pausedAt, resync;

export function startLive() {
  element = $("[data-live]");
  if (!element || !window.htmx) return;
  keepWhatIsOurs();
  // The jitter is this page's own, so that the next try can be told to the second.
  const [reconnectDelay, reconnectMaxDelay] = [400 + 400 * Math.random(), 2e4 + 1e4 * Math.random()];
  htmx.config.ws = { reconnectDelay, reconnectMaxDelay, reconnectJitter: 0, reconnectCodes: COME_BACK };
  for (const [name, listener] of Object.entries(LISTENERS)) element.addEventListener(`htmx:ws:${name}`, listener);
  const shown = new URLSearchParams({ path: location.pathname, query: location.search.slice(1) });
  element.setAttribute("hx-ws:connect", `${element.dataset.live}?${shown}`);
  htmx.process(element);
  setInterval(everySecond, 1000);
  // A page that comes back from the browser's cache has no socket any more.
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  document.addEventListener("click", onClick);
}

// The socket

// 3012 and 3013: the server restarts, or is full. 1000 and 4xxx are final.
const COME_BACK = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3012, 3013];

const LISTENERS = {
  "before:connection": ({ detail }) => {
    connection = detail.connection;
    const { reconnectDelay, reconnectMaxDelay } = connection.config;
    if (connection.attempt) nextTry = Date.now() + Math.min(reconnectDelay * 2 ** (connection.attempt - 1), reconnectMaxDelay);
  },
  "after:connection": () => {
    seq = 0;
    lostAt = nextTry = resync = undefined;
    connection.config.reconnectCodes = COME_BACK;
    showLost();
  },
  close: ({ detail }) => {
    if (document.hidden && (detail.code === 1005 || detail.code === 1000)) return;
    lostAt ??= Date.now();
    if (detail.code >= 4000) nextTry = Infinity;
    if (detail.code === 4401) location.reload(); // to the sign-in page
    if (detail.code === 1006 && connection.attempt === 3) askWhetherSignedOut();
  },
  "before:message:incoming": ({ detail }) => {
    // hx-ws swaps one region a message; ours bring several.
    detail.cancelled = true;
    if (resync) return;
    const message = JSON.parse(detail.message.data);
    if (message.after !== seq) {
      // Something was lost on the way: coming back brings everything. The server's answer to our close says 1000.
      resync = true;
      connection.config.reconnectCodes = [...COME_BACK, 1000];
      return connection.socket.close();
    }
    seq = message.seq;
    clock.offset = message.now - Date.now() / 1000;
    detail.waitUntil(show(message.frames));
  },
};

async function show(frames) {
  for (const frame of frames) if (wants(frame)) await swap(frame);
  afterSwap();
}

async function swap({ content, target, swap }) {
  if (content !== undefined) await htmx.swap({ sourceElement: element, target, swap, text: content, transition: false });
}

/** False when the frame must not be swapped now: it is kept, or drawn otherwise. */
function wants(frame) {
  if (pausedAt && !/^(feed|acts-now|others)/.test(frame.region)) {
    waiting.set(frame.region, frame);
    return void showPaused();
  }
  if (frame.data !== undefined) {
    document.dispatchEvent(new CustomEvent("umbel:data", { detail: frame }));
    return true;
  }
  const region = document.getElementById(frame.region);
  if (region && frame.held && isBusy(region)) return void hold(region, frame);
  waiting.delete(frame.region);
  newer.delete(frame.region);
  return Boolean(region);
}

/** A socket that is refused before it opens says only 1006; a page asked for says why. */
async function askWhetherSignedOut() {
  const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.reload();
}

async function apply(frame) {
  waiting.delete(frame.region);
  newer.delete(frame.region);
  await show([frame]);
}

function afterSwap() {
  tellAges();
  paintRows();
  showHeld();
  document.dispatchEvent(new Event("umbel:swapped"));
  const pulse = $(".fresh .pulse");
  pulse?.classList.remove("is-tick");
  requestAnimationFrame(() => pulse?.classList.add("is-tick"));
}

/** What the reader or a script set must survive frames: open menus, tabs, chosen rows. */
function keepWhatIsOurs() {
  const kept = { DETAILS: ["open"], DIALOG: ["open"], TR: ["aria-selected", "data-gone"] };
  const tabs = ["aria-selected", "tabindex", "hidden"];
  htmx.registerExtension("umbel", {
    htmx_before_morph_attr: (node, { attrName }) =>
      !kept[node.tagName]?.includes(attrName) && !(tabs.includes(attrName) && node.matches("[role=tab],[role=tabpanel]")),
  });
}

// Lists that hold still

/** Whether the reader works in the list: the pointer, the focus, a selection or the cursor is in it, or it is scrolled. */
function isBusy(region) {
  const list = $("[data-list] tbody", region) ?? region;
  const selection = getSelection();
  return (
    list.matches(":hover") ||
    list.contains(document.activeElement) ||
    (!selection.isCollapsed && list.contains(selection.anchorNode)) ||
    rowsIn(list).some((row) => row.classList.contains("is-cursor") || $(".chk:checked", row)) ||
    list.getBoundingClientRect().top < 0
  );
}

/** Rows already there change in their place; the others wait. */
function hold(region, frame) {
  waiting.set(frame.region, frame);
  const fresh = new Map(rowsIn(fragment(frame.content)).map((row) => [row.id, row]));
  for (const row of rowsIn(region)) {
    const next = fresh.get(row.id);
    row.toggleAttribute("data-gone", !next);
    if (next) htmx.swap({ sourceElement: element, target: `#${row.id}`, swap: "outerMorph", text: next.outerHTML, transition: false });
  }
  const unseen = newer.get(frame.region) ?? newer.set(frame.region, new Set()).get(frame.region);
  for (const id of fresh.keys()) if (unseen.size < 999 && !document.getElementById(id)) unseen.add(id);
  afterSwap();
}

function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

export async function showNewer() {
  const frames = [...waiting.values()].filter((frame) => frame.held);
  if (pausedAt) return resume();
  for (const frame of frames) {
    waiting.delete(frame.region);
    newer.delete(frame.region);
    for (const row of rowsIn(document)) row.removeAttribute("data-gone");
    await swap(frame);
  }
  afterSwap();
}

function showHeld() {
  const count = [...newer.values()].reduce((sum, ids) => sum + ids.size, 0);
  const holding = [...waiting.values()].some((frame) => frame.held);
  for (const note of $$(".held")) note.hidden = !holding;
  for (const pill of $$("[data-newpill]")) {
    pill.hidden = !count;
    const words = $("[data-newcount]", pill);
    if (words) words.textContent = `Show ${count}${count >= 999 ? "+" : ""} newer`;
  }
}

// Pause

export function togglePause() {
  if (pausedAt) return resume();
  pausedAt = Date.now();
  showPaused();
}

async function resume() {
  pausedAt = undefined;
  showPaused();
  for (const frame of [...waiting.values()]) await apply(frame);
}

function showPaused() {
  document.documentElement.toggleAttribute("data-paused", Boolean(pausedAt));
  for (const button of $$("[data-pause][aria-pressed]")) {
    button.setAttribute("aria-pressed", Boolean(pausedAt));
    const words = $("span", button);
    if (words) words.textContent = pausedAt ? "Resume" : "Pause";
  }
  const banner = $("#paused");
  if (!banner) return;
  if (banner.hidden === Boolean(pausedAt)) banner.hidden = !pausedAt;
  if (!pausedAt) return;
  put($("[data-paused-at]", banner), `Paused at ${clock.time(pausedAt / 1000)}.`);
  const parts = waiting.size === 1 ? "part of this page has" : "parts of this page have";
  put($("[data-waiting]", banner), waiting.size ? `${waiting.size} ${parts} changed since.` : "Nothing has changed since.");
}

// No socket

function showLost() {
  // A gap of a second is not worth a word.
  const lost = lostAt && Date.now() - lostAt > 1000;
  $(".app")?.classList.toggle("is-stale", Boolean(lost));
  clock.still = Boolean(lost);
  element.hidden = !lost;
  if (!lost) return;
  put($("[data-lost]", element), `Not live since ${clock.time(lostAt / 1000)}.`);
  const seconds = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
  put($("[data-next]", element), Number.isFinite(seconds) ? `Next try in ${seconds} s.` : "Reload the page to go on.");
}

function everySecond() {
  if (document.hidden) return;
  showLost();
  for (const frame of [...waiting.values()])
    if (frame.held && !pausedAt && !isBusy(document.getElementById(frame.region))) apply(frame);
}

function onClick({ target }) {
  if (target.closest("[data-pause]")) togglePause();
  else if (target.closest("[data-newpill]")) showNewer();
  else if (target.closest("[data-reconnect]")) location.reload();
}

function put(node, words) {
  if (node && node.textContent !== words) node.textContent = words;
}
