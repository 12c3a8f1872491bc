"""An application that tracks events, to be killed: `python -m tests.faults.tracker URL FILE N`.

It writes the ids that were acknowledged to FILE as it hears of them, and tracks those of N events
that are not there yet: killed and started again, it goes on. `!` marks what should not have been.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sluice import Batching, Client, Outcome, Retries

N_USERS, N_ITEMS = 149, 151


def main(url: str, file: Path, n: int) -> None:
    """Track until all is acknowledged."""
    known = set(file.read_text().split()) if file.exists() else set()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(outcome: Outcome) -> None:
        mark = "" if outcome.is_acknowledged else f"!{outcome.status}:{outcome.reason}:"
        os.write(descriptor, f"{mark}{outcome.event_id}\n".encode())

    batching = Batching(
        batch=25,
        every_s=0.01,
        buffer=200,
        when_full="block",
        on_outcome=note,
        retries=Retries(first_s=0.02, most_s=0.5, give_up_s=None),
        close_s=600,
    )
    with Client(url, timeout_s=2.0, batching=batching) as shop:
        for number in range(n):
            event_id = f"tracked-{number}"
            if event_id not in known:
                user, item = f"u{number % N_USERS}", f"i{number * 7 % N_ITEMS}"
                shop.feedback.track(user, item, "click", event_id=event_id)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
