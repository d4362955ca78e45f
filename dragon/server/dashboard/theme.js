// Which palette: the system's, or the one that was chosen here. In a script of its own, without `module`, so that it runs
// before anything is painted.
"use strict";

window.dragonTheme = (() => {
  const NAME = "dragon-theme";
  const CHOICES = ["auto", "light", "dark"];

  function chosen() {
    try {
      const found = localStorage.getItem(NAME);
      return CHOICES.includes(found) ? found : "auto";
    } catch {
      return "auto"; // storage is forbidden
    }
  }

  function apply(choice) {
    if (choice === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
  }

  function choose(choice) {
    try {
      localStorage.setItem(NAME, choice);
    } catch {
      // it holds for this page only
    }
    apply(choice);
    window.dispatchEvent(new Event("dragon-theme"));
  }

  apply(chosen());
  return { CHOICES, chosen, choose };
})();
