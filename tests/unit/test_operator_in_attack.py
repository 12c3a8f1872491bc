from __future__ import annotations

from app.recommend import Request
from tests.factories import apply, click, command
from tests.unit.clicking import opened


def test_an_operator_freezes_rolls_back_and_resumes_during_an_attack() -> None:
    """Frozen, an alarm still brings the anchor back; personal state is live; each step is noted."""
    shop = opened().run(300)
    engine = shop.engine
    assert command(engine, "freeze") is None
    version = engine.gate.data.version
    shop.run(100)
    assert engine.gate.data.version == version, "nothing is promoted"
    shop.until("hold", flip=1.0)
    assert engine.gate.data.champion == engine.gate.data.anchor
    shown = [scored.item_id for scored in engine.recommend(Request("u1", k=3)).items]
    apply(engine, click("u1", shown[0], event_id="now", at_s=shop.n))
    after = [scored.item_id for scored in engine.recommend(Request("u1", k=60)).items]
    assert shown[0] not in after, "what was clicked is not shown again, whatever the gate does"
    assert command(engine, "rollback") is None
    assert engine.gate.data.state == "open"
    assert engine.gate.data.set_aside
    version = engine.gate.data.version
    shop.run(150)
    assert engine.gate.data.version == version, "it is still frozen"
    assert command(engine, "resume") is None
    shop.until("promote")
    kinds = [kind for kind in shop.kinds() if kind in ("freeze", "hold", "rollback", "resume")]
    assert kinds == ["freeze", "hold", "rollback", "resume"]
    assert [d.asked_by for d in engine.gate.decisions if d.kind in ("freeze", "resume")] == [
        "tester",
        "tester",
    ]
