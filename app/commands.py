"""What operators may ask of the gate, and what its state forbids."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.gate import Gate
from app.gate_data import Mode, Refusal, merge

_MODES: dict[str, Mode] = {
    "freeze": "frozen",
    "resume": "normal",
    "shadow_only": "shadow_only",
}


def command(
    gate: Gate,
    name: str,
    reason: str,
    asked_by: str,
    *,
    force: bool,
    overlap: float = 1.0,
    without: list[str] | None = None,
) -> None:
    """Do what an operator asks; raise Refusal where the state forbids it.

    `overlap` of champion and shadow counts for a promotion alone, items to learn `without` for
    a requeue.
    """
    if name == "promote":
        _promote(gate, reason, asked_by, force=force, overlap=overlap)
    elif name == "rollback":
        _require_anchor(gate, "roll back to")
        gate.roll_back(reason, asked_by, {"champion_was": asdict(gate.data.champion)})
    elif name == "requeue":
        _requeue(gate, reason, asked_by, without or [])
    else:
        _set_mode(gate, name, reason, asked_by)


def _require_anchor(gate: Gate, what: str) -> None:
    if gate.is_following:
        raise Refusal(f"there is no anchor to {what}: the gate is {gate.reason}")


def _promote(gate: Gate, reason: str, asked_by: str, *, force: bool, overlap: float) -> None:
    _require_anchor(gate, "promote past")
    data, least = gate.data, gate.settings.overlap_min
    if not force and (data.state != "open" or data.mode != "normal"):
        raise Refusal(
            f"the gate is {data.state} and the mode {data.mode};"
            ' promote with "force": true if you know better'
        )
    if not force and overlap < least:
        raise Refusal(
            f"overlap@10 is {overlap:.3f}, below {least};"
            ' promote with "force": true if you know better'
        )
    if data.ask_trial is not None:
        gate.reopen("ask_resolved", "promoted by force", {"judged": data.ask_trial.n})
    if gate.arbiter.hold is not None:
        numbers = gate.arbiter.evidence(gate.now, gate.settings)
        gate.arbiter.end()
        gate.start_anew()
        gate.reopen("hold_ended", "promoted by force", numbers)
    gate.promote(reason, asked_by, overlap)


def _requeue(gate: Gate, reason: str, asked_by: str, without: list[str]) -> None:
    if not gate.data.set_aside:
        raise Refusal("nothing is set aside")
    if gate.data.state == "hold":
        raise Refusal("the gate is in HOLD: what it suspects is not set aside yet")
    windows, gate.data.set_aside = gate.data.set_aside, []
    # One window may lie in another: each event is learned once.
    merged = merge(windows)
    gate.record("requeue", reason, {"windows": merged, "without": without}, asked_by)
    gate.relearn(merged, without)


def _set_mode(gate: Gate, name: str, reason: str, asked_by: str) -> None:
    was, gate.data.mode = gate.data.mode, _MODES[name]
    evidence: dict[str, Any] = {"mode_was": was}
    if name == "resume" and gate.data.suspects:
        evidence["cleared"] = sorted(gate.data.suspects)
        gate.data.suspects = {}
    gate.record(name, reason, evidence, asked_by)


def after_restore(
    gate: Gate,
    snapshot_id: str,
    reason: str,
    asked_by: str,
    overlap: float,
    since: int,
) -> None:
    """Go on after the versions were replaced by a snapshot's, of event `since`.

    What came after that is set aside, so that no rollback learns again what this has undone.
    """
    data, least = gate.data, gate.settings.overlap_min
    data.version += 1
    data.promoted = data.put_aside = gate.now
    data.candidate_trial = None
    evidence: dict[str, Any] = {"snapshot": snapshot_id, "overlap": overlap}
    if gate.semantics >= 10:
        window = [since + 1, gate.now.event]
        gate.set_aside(window)
        evidence["set_aside"] = window
    gate.record("restore", reason, evidence, asked_by)
    # A gate that is off is told of nothing by which it could leave a question.
    may_ask = gate.settings.gate != "off" or gate.semantics < 10
    if data.state == "open" and overlap < least and not gate.is_following and may_ask:
        gate.ask("overlap", evidence | {"threshold": least})
