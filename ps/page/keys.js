// Single keys, and the page that lists them.
//
// The one rule: a key never acts while somebody types, together with Ctrl, Alt or Meta, or when the reader has switched
// single keys off (WCAG 2.1, 2.1.4).

import { byId, el } from "./dom.js";

const KEPT = "leeway-keys";

const WHERE_ONE_IS = [
  ["Tab ↑ ↓ Enter", "move to a lane and show its decisions"],
  ["← → Home End", "read a chart point by point"],
];

/** `actions`: `[key, words, action]`. */
export function listen(actions) {
  const dialog = byId("help-dialog");
  const on = byId("keys-on");
  on.checked = localStorage.getItem(KEPT) !== "off";
  on.addEventListener("change", () => localStorage.setItem(KEPT, on.checked ? "on" : "off"));
  const all = [["?", "this list", () => dialog.showModal()], ...actions];
  byId("help").addEventListener("click", () => dialog.showModal());
  for (const [key, words] of [...all, ...WHERE_ONE_IS]) {
    byId("keys").append(el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input, select, textarea");
    if (typing && event.key !== "Escape") return;
    if (!on.checked && event.key !== "Escape") return;
    const found = all.find(([key]) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
}
