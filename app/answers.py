"""Which slates have been answered, and with what: the last 100,000 that were, and no more.

A slate is judged once, when it is logged as an impression; until then its clicks are kept here.
"""

from __future__ import annotations

from learners.ids import State

MAX_SLATES = 100_000


class Answers:
    """Clicked items by slate, and which slates were judged. Past MAX_SLATES the first one goes."""

    def __init__(self) -> None:
        self._clicked: dict[str, list[str]] = {}
        self._judged: dict[str, None] = {}

    def note(self, recommendation_id: str, item_id: str) -> bool:
        """Remember a click; tell whether it is the slate's first."""
        clicked = self._clicked.get(recommendation_id)
        if clicked is not None:
            if item_id not in clicked:
                clicked.append(item_id)
            return False
        self._clicked[recommendation_id] = [item_id]
        if len(self._clicked) > MAX_SLATES:
            del self._clicked[next(iter(self._clicked))]
        return True

    def clicked(self, recommendation_id: str) -> list[str]:
        """Return what was clicked on a slate, and do not forget it."""
        return self._clicked.get(recommendation_id, [])

    def take(self, recommendation_id: str) -> list[str]:
        """Return what was clicked on a slate, and forget it."""
        return self._clicked.pop(recommendation_id, [])

    def judge(self, recommendation_id: str) -> bool:
        """Remember that a slate is judged; tell whether it had not been before."""
        if recommendation_id in self._judged:
            return False
        self._judged[recommendation_id] = None
        if len(self._judged) > MAX_SLATES:
            del self._judged[next(iter(self._judged))]
        return True

    def state(self) -> State:
        """Return what `load_state` continues from."""
        slates = [[slate, *items] for slate, items in self._clicked.items()]
        # Nothing is until semantics version 10: programs of before compare snapshots, too.
        return {"slates": slates} | ({"judged": list(self._judged)} if self._judged else {})

    def load_state(self, state: State) -> None:
        """Become the answers that `state` was taken from."""
        self._clicked = {slate: items for slate, *items in state["slates"]}
        self._judged = dict.fromkeys(state.get("judged", ()))
