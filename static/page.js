// What every page does without a socket: the theme, dialogs, menus, tabs, copying, toasts, ages that tick.
export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...(root ?? document).querySelectorAll(selector)];

/** The server's clock, as far as frames told it; ``still`` shows clock times instead of ages. */
export const clock = {
  offset: 0,
  still: false,
  now: () => Date.now() / 1000 + clock.offset,
  time: (at) => new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }),
};

export function startTheme() {
  onClick("[data-theme-toggle]", flipTheme);
}

/** The choice goes into a cookie: the server writes it into the next page, so no page starts in the wrong colours. */
export function flipTheme() {
  const root = document.documentElement;
  const chosen = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = chosen === "dark" ? "light" : "dark";
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `umbel-theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax${secure}`;
  document.dispatchEvent(new Event("umbel:theme"));
}

/** Native dialogs: focus and escape come for free. */
export function startDialogs() {
  onClick("[data-open]", (button, event) => openDialog(button.dataset.open) && event.preventDefault());
  onClick("dialog [data-close]", (button, event) => {
    event.preventDefault();
    button.closest("dialog").close();
  });
  // A press beside the dialog, on its backdrop.
  document.addEventListener("mousedown", ({ target }) => target.matches?.("dialog[open]:not([data-stay])") && target.close());
  const openNew = () => $$("dialog[data-auto]:not([open])").forEach((dialog) => openOnce(dialog));
  document.addEventListener("htmx:after:swap", openNew);
  openNew();
}

/** A question that was answered goes; the answer is a toast. */
export function startAnswers() {
  document.addEventListener("htmx:after:request", ({ target, detail }) => {
    const form = target.closest?.("dialog[open] form[method=post]");
    const status = detail?.ctx?.response?.status;
    if (!form || !status || status === 401) return;
    form.closest("dialog").close();
    // What was chosen has been acted on.
    if (status < 400) document.dispatchEvent(new Event("umbel:answered"));
  });
}

function openOnce(dialog) {
  dialog.removeAttribute("data-auto");
  dialog.showModal();
}

export function openDialog(selector) {
  const dialog = $(selector);
  if (!dialog?.showModal) return false;
  if (!dialog.open) dialog.showModal();
  return true;
}

/** A menu closes when anything else is pressed, or with escape, which puts the focus back on its button. */
export function startMenus() {
  document.addEventListener("click", ({ target }) => {
    for (const menu of $$("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
  });
  document.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    for (const menu of $$("details.menu[open]")) {
      menu.open = false;
      $("summary", menu).focus();
    }
  });
}

export function startTabs() {
  onClick("[role=tab]", chooseTab);
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!tab || (!step && !["Home", "End"].includes(event.key))) return;
    event.preventDefault();
    const tabs = $$("[role=tab]", tab.closest("[role=tablist]"));
    const at = event.key === "Home" ? 0 : event.key === "End" ? -1 : (tabs.indexOf(tab) + step) % tabs.length;
    chooseTab(tabs.at(at));
    tabs.at(at).focus();
  });
}

function chooseTab(chosen) {
  for (const tab of $$("[role=tab]", chosen.closest("[role=tablist]"))) {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
    const panel = document.getElementById(tab.getAttribute("aria-controls"));
    if (panel) panel.hidden = tab !== chosen;
  }
}

/** ``data-copy`` holds the text, or names the element with it: ``data-copy="#traceback"``. */
export function startCopy() {
  onClick("[data-copy]", async (button) => {
    const what = button.dataset.copy;
    const text = what.startsWith("#") ? $(what)?.textContent : what;
    const said = await navigator.clipboard?.writeText(text ?? "").then(() => "Copied", () => "Not copied");
    const words = $("span", button) ?? button;
    const before = words.textContent;
    if (!said || before === said || words.childElementCount) return;
    words.textContent = said;
    setTimeout(() => (words.textContent = before), 1500);
  });
}

/** Only a good result leaves by itself, after six seconds in which nobody pointed at it or had the focus in it. */
export function startToasts() {
  // The newest word on an act takes the place of the one before.
  document.addEventListener("htmx:after:swap", () => {
    const toasts = $$(".toasts > .toast[id]");
    const newest = new Map(toasts.map((toast) => [toast.id, toast]));
    for (const toast of toasts) if (newest.get(toast.id) !== toast) toast.remove();
  });
  onClick(".toast [data-dismiss], .toast .btn-icon", (button) => button.closest(".toast").remove());
  setInterval(() => {
    for (const toast of $$(".toasts :is([data-state=succeeded], .is-quiet).toast")) {
      const kept = document.hidden || toast.matches(":hover, :focus-within");
      toast.age = kept ? 0 : (toast.age ?? 0) + 1;
      if (toast.age > 6) toast.remove();
    }
  }, 1000);
}

/** Ages tick here, so frames need not say that a second went by. */
export function startAges() {
  setInterval(() => document.hidden || tellAges(), 1000);
}

export function tellAges() {
  for (const node of $$("time[data-age]")) {
    const at = Number(node.dataset.age);
    const words = clock.still ? clock.time(at) : ago(clock.now() - at);
    if (node.textContent !== words) node.textContent = words;
  }
}

/** The same words as the server's ``ago``. */
export function ago(past) {
  const span = Math.abs(past);
  if (span < 1) return "now";
  const [step, unit] = span >= 172800 ? [86400, "d"] : span >= 3600 ? [3600, "h"] : span >= 60 ? [60, "min"] : [1, "s"];
  const words = `${Math.floor(span / step)}\u00a0${unit}`;
  return past > 0 ? `${words} ago` : `in ${words}`;
}

function onClick(selector, act) {
  document.addEventListener("click", (event) => {
    const found = event.target.closest?.(selector);
    if (found) act(found, event);
  });
}
