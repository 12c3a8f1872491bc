// Be somebody, click, and watch the list change, with the reasons.

import { get, part, post } from "./api.js";
import { byId, h, say, sayError } from "./dom.js";
import { figure } from "./format.js";

const K = 10;
const N_PAST = 8;
const SOURCES = { trending: "what is trending", factors: "taste", item: "the item itself", categories: "its categories", model: "the model", catalogue: "room in the list" };

export function playground(live) {
  const form = byId("play-form");
  const user = byId("play-user");
  const consent = byId("play-consent");
  const error = byId("play-error");
  const list = byId("play-items");
  const trail = byId("play-trail");
  const status = byId("play-status");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  // `past` is what the user had before, `clicks` what was clicked here, both oldest first.
  const now = { userId: "", past: [], clicks: [], items: null, recommendationId: null, cursor: null };
  let turn = 0;

  const isTeaching = () => form.elements["play-mode"].value === "teach";
  const mayTeach = () => !isTeaching() || (consent.checked && now.userId !== "");

  /** Do one step, and say what went wrong, if it did; what a slower step brings late is dropped. */
  async function step(work) {
    const mine = ++turn;
    list.setAttribute("aria-busy", "true");
    try {
      const content = await work();
      if (mine !== turn) return;
      show(content);
      sayError(error, null);
    } catch (problem) {
      if (mine === turn) sayError(error, problem);
    } finally {
      if (mine === turn) list.removeAttribute("aria-busy");
    }
  }

  function recommend() {
    if (isTeaching() && now.userId) {
      return get(`v1/recommendations/${part(now.userId)}`, { k: K, explain: true, min_cursor: now.cursor, deadline_ms: 1_000 });
    }
    return post("v1/recommendations", { history: [...now.past, ...now.clicks], k: K, explain: true });
  }

  async function become(userId) {
    now.userId = userId;
    now.past = [];
    now.clicks = [];
    now.items = null;
    now.cursor = null;
    user.value = userId;
    await step(async () => {
      if (userId) now.past = await pastOf(userId);
      return recommend();
    });
    drawTrail();
  }

  /** What a user had and liked, oldest first; nothing for somebody whom nobody knows. */
  async function pastOf(userId) {
    try {
      const { events } = await get(`v1/users/${part(userId)}/history`);
      return events.filter(({ reward }) => reward > 0).map(({ item_id: item }) => item).reverse();
    } catch (problem) {
      if (problem.status === 404) return [];
      throw problem;
    }
  }

  async function click(itemId) {
    await step(async () => {
      if (isTeaching()) await teach(itemId);
      now.clicks.push(itemId);
      return recommend();
    });
    drawTrail();
    list.querySelector("button")?.focus({ preventScroll: true });
  }

  async function teach(itemId) {
    const event = { user_id: now.userId, item_id: itemId, type: "click", recommendation_id: now.recommendationId };
    const { results, cursor } = await post("v1/feedback", [event]);
    if (results[0].status === "quarantined") throw new Error(`The click was refused: ${results[0].reason}.`);
    now.cursor = cursor;
  }

  function show({ items, model, recommendation_id: id }) {
    const before = now.items && new Map(now.items.map((item) => [item.item_id, item.position]));
    const tops = new Map([...list.children].map((node) => [node.dataset.item, node.getBoundingClientRect().top]));
    now.items = items;
    now.recommendationId = id;
    list.replaceChildren(...items.map((item) => card(item, before)));
    if (!items.length) list.append(h("li", { class: "empty" }, "Nothing is left to show. Post some feedback first, or run make demo beside this service."));
    animate(tops);
    say(byId("play-model"), `version ${model.version}, gate ${model.gate}`);
    say(status, before ? changes(items, before) : items.length ? `${items.length} items for ${now.userId || "somebody new"}.` : "");
  }

  function changes(items, before) {
    const nNew = items.filter(({ item_id: id }) => !before.has(id)).length;
    const nMoved = items.filter(({ item_id: id, position }) => before.has(id) && before.get(id) !== position).length;
    return `The list has changed: ${nNew} new, ${nMoved} moved.`;
  }

  function card(item, before) {
    const place = h("span", { class: "place" }, `${item.position}.`);
    const name = h("span", { class: "name" }, item.item_id);
    const button = h("button", { type: "button", disabled: !mayTeach(), onclick: () => click(item.item_id) }, place, name, moved(item, before), because(item));
    const node = h("li", {}, button);
    node.dataset.item = item.item_id;
    return node;
  }

  function moved({ item_id: id, position }, before) {
    if (!before) return h("span");
    if (!before.has(id)) return h("span", { class: "moved new" }, "new");
    const by = before.get(id) - position;
    if (!by) return h("span");
    return h("span", { class: `moved ${by > 0 ? "up" : "down"}` }, h("span", { "aria-hidden": "true" }, by > 0 ? `▲ ${by}` : `▼ ${-by}`), h("span", { class: "visually-hidden" }, by > 0 ? `up ${by}` : `down ${-by}`));
  }

  function because({ why = [], sources, score }) {
    const line = h("span", { class: "because" });
    const reasons = why.filter(({ weight }) => weight > 0).slice(0, 3);
    if (!reasons.length) line.append(sources.join(", "));
    reasons.forEach(({ because: what, weight }, i) => {
      line.append(i ? " · " : "because of ", h("b", {}, SOURCES[what] ?? what), ` ${figure(weight)}`);
    });
    line.append(` · score ${figure(score)}`);
    return line;
  }

  /** Let cards glide to their new places. */
  function animate(tops) {
    if (calm.matches) return;
    for (const node of list.children) {
      const was = tops.get(node.dataset.item);
      const by = was === undefined ? 0 : was - node.getBoundingClientRect().top;
      const from = was === undefined ? { opacity: 0 } : { transform: `translateY(${by}px)` };
      if (tops.size && (by || was === undefined)) node.animate([from, {}], { duration: 220, easing: "ease-out" });
    }
  }

  function drawTrail() {
    const past = now.past.slice(-N_PAST).map((id) => h("li", { class: "past" }, h("span", {}, `${id} (before)`)));
    const more = now.past.length - past.length;
    if (more > 0) past.unshift(h("li", { class: "past" }, `and ${more} before that`));
    const clicks = now.clicks.map((id, i) => h("li", {}, h("span", {}, id), isTeaching() ? "" : undo(id, i)));
    trail.replaceChildren(...past, ...clicks);
    if (!past.length && !clicks.length) trail.append(h("li", { class: "empty" }, "Nothing yet."));
  }

  function undo(id, i) {
    const onclick = async () => {
      now.clicks.splice(i, 1);
      await step(recommend);
      drawTrail();
    };
    return h("button", { type: "button", class: "quiet", "aria-label": `Take back the click on ${id}`, onclick }, "Undo");
  }

  const invented = () => `visitor-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;

  async function random() {
    const place = Math.floor(Math.random() * (live.sample?.users ?? 0));
    const page = await get("v1/users", { n: 50, cursor: place });
    if (!page.users.length) throw new Error("Nobody is known here yet: be somebody new.");
    return page.users[Math.floor(Math.random() * page.users.length)];
  }

  async function offerUsers() {
    try {
      const { users } = await get("v1/users", { n: 200 });
      byId("play-users").replaceChildren(...users.map((id) => h("option", { value: id })));
    } catch (problem) {
      sayError(error, problem);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void become(user.value.trim());
  });
  byId("play-random").addEventListener("click", () => random().then(become, (problem) => sayError(error, problem)));
  byId("play-new").addEventListener("click", () => become(isTeaching() ? invented() : ""));
  byId("play-over").addEventListener("click", () => become(isTeaching() ? invented() : ""));
  form.addEventListener("change", ({ target }) => {
    if (target === user) return;
    byId("play-tick").hidden = !isTeaching();
    if (target !== consent) consent.checked = false;
    if (target.name === "play-mode") void become(isTeaching() ? now.userId || invented() : now.userId);
    for (const button of list.querySelectorAll("button")) button.disabled = !mayTeach();
  });

  return {
    show: () => {
      void offerUsers();
      if (!now.items) void become(now.userId);
    },
  };
}
