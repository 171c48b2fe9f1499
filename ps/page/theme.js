// Dark or light: the system's, unless the reader has chosen. Loaded before the page is drawn: it does not flash.
//
// The one rule: the choice is the reader's and stays with the reader's browser.

const KEY = "leeway-theme";
const CHOICES = ["system", "light", "dark"];

export function chosen() {
  const kept = localStorage.getItem(KEY);
  return CHOICES.includes(kept) ? kept : "system";
}

export function next() {
  const choice = CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length];
  localStorage.setItem(KEY, choice);
  apply();
  return choice;
}

function apply() {
  const choice = chosen();
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}

apply();
