// Times on the form that runs a task are in the zone of whoever looks: the server gets the instant. Without this, UTC.
import { $, $$ } from "./page.js";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "your clock";

for (const box of $$("[data-moment]")) {
  const [typed, instant] = [$("input[type=datetime-local]", box), $("input[type=hidden]", box)];
  $("[data-zone]", box).textContent = zone.replaceAll("_", " ");
  const tell = () => {
    const at = typed.value ? new Date(typed.value).getTime() / 1000 : NaN;
    instant.value = Number.isFinite(at) ? at : "";
  };
  typed.addEventListener("input", tell);
  typed.form.addEventListener("submit", tell);
  tell();
}
