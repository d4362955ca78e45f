// Before the first paint, so that nothing jumps: there is JavaScript, and this language was chosen last time.
"use strict";

document.documentElement.classList.add("js");
try {
  document.documentElement.dataset.tab = localStorage.getItem("dragon-tab") ?? "curl";
} catch {
  document.documentElement.dataset.tab = "curl"; // storage is forbidden
}
