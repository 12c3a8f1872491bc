// Puts the page together: login, the stream, the views and their addresses.

import { LOGGED_OUT, ask, get, post } from "./api.js";
import { decisionsView } from "./decisions.js";
import { byId, say, sayError } from "./dom.js";
import { Live } from "./live.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";
import { quarantineView } from "./quarantine.js";
import { snapshotsView } from "./snapshots.js";

const live = new Live();
const views = {
  overview: overview(live),
  decisions: decisionsView(live),
  quarantine: quarantineView(),
  snapshots: snapshotsView(live),
  playground: playground(live),
};
let isOpen = false;

// -- views and their addresses --------------------------------------------------------------------

const current = () => (location.hash.slice(1) in views ? location.hash.slice(1) : "overview");

function showView({ focus }) {
  const name = current();
  for (const each of Object.keys(views)) byId(each).hidden = each !== name || !isOpen;
  for (const link of byId("nav").children) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!isOpen) return;
  document.title = `${byId(`${name}-title`).textContent} – Sluice`;
  views[name].show();
  if (focus) {
    byId(`${name}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

addEventListener("hashchange", () => showView({ focus: true }));

// Nobody looks at a page in the background, so it is not drawn.
const draw = (name) => () => {
  if (document.visibilityState === "visible") views[current()][name]?.();
};
live.addEventListener("sample", draw("onSample"));
live.addEventListener("decisions", draw("onDecisions"));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && isOpen) views[current()].onSample?.();
});

const CONNECTIONS = { connecting: "Connecting", live: "Live", lost: "No connection: trying again" };
live.addEventListener("connection", () => {
  const node = byId("connection");
  node.dataset.state = live.connection;
  say(node, CONNECTIONS[live.connection]);
});

// -- login ----------------------------------------------------------------------------------------

function open({ needsKey, focus = false }) {
  isOpen = true;
  byId("login").hidden = true;
  byId("nav").hidden = false;
  byId("connection").hidden = false;
  byId("log-out").hidden = !needsKey;
  live.start();
  showView({ focus });
}

function close() {
  isOpen = false;
  live.stop();
  byId("nav").hidden = true;
  byId("log-out").hidden = true;
  byId("connection").hidden = true;
  byId("dialog").close();
  showView({ focus: false });
  byId("login").hidden = false;
  byId("login-key").focus();
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("v1/session", { key: byId("login-key").value });
    byId("login-key").value = "";
    sayError(byId("login-error"), null);
    open({ needsKey: true, focus: true });
  } catch (problem) {
    sayError(byId("login-error"), problem);
  }
});

byId("log-out").addEventListener("click", async () => {
  try {
    await ask("DELETE", "v1/session");
  } finally {
    close();
  }
});
addEventListener(LOGGED_OUT, () => isOpen && close());

// -- theme ----------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("sluice-theme", theme);
  say(byId("theme"), `Theme: ${theme}`);
}
showTheme(localStorage.getItem("sluice-theme") ?? "system");
byId("theme").addEventListener("click", () => {
  const at = THEMES.indexOf(document.documentElement.dataset.theme);
  showTheme(THEMES[(at + 1) % THEMES.length]);
});

// -- begin ----------------------------------------------------------------------------------------

async function begin() {
  try {
    const session = await get("v1/session");
    if (session.is_open) open({ needsKey: session.needs_key });
    else close();
  } catch {
    byId("connection").dataset.state = "lost";
    say(byId("connection"), CONNECTIONS.lost);
    setTimeout(begin, 3_000);
  }
}
void begin();
