// The pool size's plus and minus, and a button that says what it will do. The number posts without any of this.
for (const form of document.querySelectorAll("form[data-stepper]")) startStepper(form);

function startStepper(form) {
  const input = form.querySelector("input[name=size]");
  const button = form.querySelector("[data-said]");
  const live = () => document.getElementById("worker-pool")?.dataset.size ?? "";
  let touched = false;

  function say() {
    const now = Number(live() || form.dataset.now);
    const size = Number(input.value);
    const change = size - now;
    if (!input.value.trim() || !Number.isInteger(change) || !change) button.textContent = "Set size";
    else button.textContent = change > 0 ? `Grow by ${change}` : `Shrink by ${-change}`;
  }
  form.addEventListener("click", ({ target }) => {
    const step = Number(target.closest?.("[data-step]")?.dataset.step);
    if (!step) return;
    touched = true;
    input.value = Math.max(1, (Number.parseInt(input.value, 10) || Number(live()) || 0) + step);
    say();
  });
  input.addEventListener("input", () => {
    touched = true;
    say();
  });
  form.addEventListener("submit", () => (touched = false));
  // The pool may change while nobody types: then the field follows it.
  new MutationObserver(() => {
    if (!touched && document.activeElement !== input && live()) input.value = live();
    say();
  }).observe(form.closest(".detail-r") ?? form, { subtree: true, attributes: true, attributeFilter: ["data-size"] });
  say();
}
