// A number with plus and minus, and a button that says what it would do. The form posts without any of this.
// [data-stepper] holds [data-step] buttons, a numeric input and [data-said]. The live region #worker-pool tells the
// pool's size (data-size) and why this and that may not be changed now (data-no, data-scale-no and others).
import { $, $$ } from "./page.js";

const pool = () => $("#worker-pool")?.dataset;

export function startSteppers() {
  for (const stepper of $$("[data-stepper]")) startStepper(stepper);
  follow();
  document.addEventListener("umbel:swapped", follow);
}

function startStepper(stepper) {
  const input = field(stepper);
  stepper.addEventListener("click", ({ target }) => {
    const step = Number(target.closest("[data-step]")?.dataset.step);
    if (!step) return;
    input.value = Math.max(1, (Number.parseInt(input.value, 10) || 0) + step);
    // As if it was typed: what it would do is asked for.
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  input.addEventListener("input", () => touch(stepper));
  // What was asked for is no longer a draft: the field follows the pool again.
  stepper.addEventListener("submit", () => delete stepper.dataset.touched);
}

function touch(stepper) {
  stepper.dataset.touched = "";
  say(stepper);
}

/** While nobody has typed a number, the field shows the pool as it is, and what is said of a size is of this one. */
function follow() {
  for (const form of $$("[data-allowed-by]")) allow(form, pool()?.[form.dataset.allowedBy]);
  for (const stepper of $$("[data-stepper]")) {
    const input = field(stepper);
    const untouched = !("touched" in stepper.dataset) && document.activeElement !== input;
    const other = untouched && pool()?.size && pool().size !== input.value;
    if (other) input.value = pool().size;
    if (other && !input.disabled) input.dispatchEvent(new Event("followed"));
    say(stepper);
  }
}

/** A control that cannot work now stays in sight, with the reason. */
function allow(form, why) {
  if (why === undefined) return;
  // What the role may not do stays off.
  for (const part of $$("input:not([type=hidden]), button:not([data-off])", form)) part.disabled = why !== "";
  const reason = $("[data-why]", form);
  if (reason && $("span", reason).textContent !== why) $("span", reason).textContent = why;
  if (reason) reason.hidden = !why;
  for (const effect of $$("[data-effect]", form)) effect.hidden = why !== "";
}

function say(stepper) {
  const change = Number(field(stepper).value) - Number(pool()?.size || stepper.dataset.now);
  const words = change > 0 ? `Grow by ${change}` : change < 0 ? `Shrink by ${-change}` : "Set size";
  $("[data-said]", stepper).textContent = field(stepper).value.trim() && Number.isInteger(change) ? words : "Set size";
}

const field = (stepper) => $("input[inputmode=numeric]", stepper);
