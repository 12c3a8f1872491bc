// What the gate's words mean, for who sees them for the first time.

export const STATES = {
  open: "What was learned passes to everybody, promotion by promotion.",
  ask: "Something looks unusual. Nothing is promoted until enough events have shown the shadow to be no worse.",
  hold: "People click otherwise than is expected. The anchor is served, while trusted users' clicks tell why.",
};
export const WARMING = "Warming up: everybody is served what is learned, event by event, until there is a first anchor.";
export const OFF = "The gate is off: everybody is served what is learned, unguarded.";
export const MODES = {
  normal: "normal",
  frozen: "frozen: nothing is promoted",
  shadow_only: "shadow only: measured, never promoted",
};

export const DETECTORS = {
  harm: "Harm, by ranks",
  harm_outside: "Harm, outside the top ten",
  clicks_over: "Too many clicks",
  clicks_under: "Too few clicks",
  item: "A single item",
  ask: "Asking: shadow against champion",
  adwin_loss: "Loss of the champion",
  adwin_quarantined: "Share quarantined",
  adwin_unknown_items: "Share of unknown items",
  adwin_rate: "Rate of events",
  adwin_concentration: "Repeats of items",
};

export const STAGES = {
  reads: "Lists",
  receiving: "Receiving feedback",
  appending: "Writing it to the log",
  judging: "Judging",
  learning: "Learning",
  snapshots: "Snapshots",
  other: "Everything else",
};

export const PARTS = {
  users: "Users",
  items: "Items and catalogue",
  covisit: "Co-visitation",
  sequence: "Sequence",
  factors: "Factors",
  trending: "Trending",
  combiner: "Combiner",
  versions: "Versions (indices)",
  challenger: "Challenger",
  window: "Events to learn again",
  gate: "Gate and detectors",
  event_ids: "Event ids and caps",
};

const KINDS = {
  promote: "Promotion",
  first_anchor: "First anchor",
  bless: "Blessing",
  candidate: "Candidate for the anchor",
  candidate_dropped: "Candidate dropped",
  promotion_refused: "Promotion refused",
  alarm: "Alarm",
  drift: "Drift, for the better",
  ask: "Ask begins",
  ask_resolved: "Ask ends",
  hold: "Hold begins",
  hold_ended: "Hold ends",
  no_proof: "No proof yet",
  fault: "Fault proven",
  rollback: "Rollback",
  shadow_reset: "Shadow set back",
  relearn: "Learned again",
  restore: "Snapshot restored",
  restore_refused: "Restore refused",
  adopt: "Adopted",
  freeze: "Frozen",
  resume: "Resumed",
  shadow_only: "Shadow only",
  requeue: "Requeued",
  configure: "Settings changed",
  upgrade: "Semantics upgraded",
  thin: "Judging thinned or restored",
};

export const kindName = (kind) => KINDS[kind] ?? kind.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());

/** Promotions are routine: a list of decisions is readable without them. */
export const ROUTINE = ["promote", "candidate", "candidate_dropped"];
export const isRoutine = (kind) => ROUTINE.includes(kind);

export function tone(kind) {
  if (["rollback", "hold", "shadow_reset", "restore_refused"].includes(kind)) return "bad";
  return ["alarm", "ask", "promotion_refused", "restore", "freeze", "shadow_only", "no_proof", "fault"].includes(kind) ? "warn" : "";
}

/** Which mark a decision has in the picture, if any. */
export function markOf(kind) {
  if (kind === "promote") return "promotion";
  if (kind === "bless" || kind === "first_anchor") return "blessing";
  if (kind === "alarm" || kind === "promotion_refused") return "alarm";
  return ["rollback", "shadow_reset", "restore"].includes(kind) ? "rollback" : null;
}
