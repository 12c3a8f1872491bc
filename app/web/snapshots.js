// Snapshots: what there is, one more, and back to one.

import { get, part, post } from "./api.js";
import { confirm } from "./dialog.js";
import { byId, h, say, sayError } from "./dom.js";
import { bytes, count, moment } from "./format.js";

export function snapshotsView(live) {
  const body = byId("snapshots-table").tBodies[0];
  const status = byId("snapshots-status");
  const error = byId("snapshots-error");
  const write = byId("snapshots-write");

  async function read() {
    try {
      const { snapshots } = await get("v1/snapshots");
      body.replaceChildren(...snapshots.map(row));
      if (!snapshots.length) body.append(h("tr", {}, h("td", { class: "empty", colSpan: 5 }, "There is none yet. One is written every so often, and at a clean stop.")));
      sayError(error, null);
    } catch (problem) {
      sayError(error, problem);
    }
  }

  function row(snapshot) {
    const written = moment(Date.parse(snapshot.written_at));
    const isGood = !snapshot.refused;
    return h(
      "tr", {},
      h("td", {}, h("time", { dateTime: snapshot.written_at }, written)),
      h("td", {}, isGood ? count(snapshot.n_events ?? 0) : h("span", { class: "tag bad" }, snapshot.refused)),
      h("td", {}, isGood ? bytes(snapshot.bytes ?? null) : "–"),
      h("td", { class: "id" }, snapshot.id),
      h("td", {}, isGood ? h("button", { type: "button", "aria-label": `Restore the snapshot of ${written}`, onclick: () => restore(snapshot, written) }, "Restore") : ""),
    );
  }

  function restore(snapshot, written) {
    confirm({
      title: `Go back to ${written}?`,
      text: "Shadow, champion, anchor and gate become what they were then, on every replica. Histories and acknowledged events stay.",
      label: "Restore",
      isDanger: true,
      tickText: "I know that what was learned since then is taken back",
      mustTick: true,
      act: async (reason) => {
        live.add((await post(`v1/snapshots/${part(snapshot.id)}/restore`, { reason })).decisions);
        say(status, `Restored what was at ${written}.`);
      },
    });
  }

  write.addEventListener("click", async () => {
    write.disabled = true;
    say(status, "Writing …");
    try {
      const { id } = await post("v1/snapshots");
      await read();
      say(status, `Snapshot ${id} is written.`);
    } catch (problem) {
      say(status, "");
      sayError(error, problem);
    } finally {
      write.disabled = false;
    }
  });
  byId("snapshots-refresh").addEventListener("click", async () => {
    await read();
    say(status, "Read again.");
  });
  return { show: read };
}
