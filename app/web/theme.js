// Runs before anything is painted, so that nobody's dark page begins with a flash of white.
(() => {
  const chosen = localStorage.getItem("sluice-theme");
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
})();
