"""Kill client and service, and cut the network between them, while events are tracked.

    python -m tests.faults.client_kills --events 10000 --faults 60 --seed 1

An application tracks events by the Python client, and is started again where it is killed, until
all are acknowledged. Each of these must then have been admitted exactly once.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.faults.kills import Victims
from tests.faults.log import check
from tests.faults.network import Network
from tests.integration.service import ROOT, until

FAULTS = ("client", "service", "cut", "down", "deaf")
MOST_S = 0.5


class Result(NamedTuple):
    """What a run came to."""

    faults: Counter[str]
    n_acknowledged: int
    n_admitted: int
    seconds: float


class Application:
    """The process that tracks, and what it was told."""

    def __init__(self, url: str, file: Path, n_events: int) -> None:
        self._arguments = ("-m", "tests.faults.tracker", url, str(file), str(n_events))
        self._file = file
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *self._arguments], cwd=ROOT)

    def kill(self) -> None:
        """Kill it with SIGKILL, and start it again."""
        self.close()
        self._process = self._start()

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    @property
    def is_done(self) -> bool:
        """Tell whether it has ended; fail if it ended by a mistake."""
        code = self._process.poll()
        assert code in (None, 0), f"the application ended with {code}"
        return code == 0

    @property
    def acknowledged(self) -> list[str]:
        """Return what it was told is there, in whole lines."""
        text = self._file.read_text() if self._file.exists() else ""
        lines = text[: text.rfind("\n") + 1].split()
        assert [line for line in lines if line.startswith("!")][:3] == []
        return lines


def run(*, n_events: int, n_faults: int, seed: int, folder: Path, show: bool = False) -> Result:
    """Let so many things happen while events are tracked, and hold the service to its log."""
    chance, faults, started = random.Random(seed), Counter[str](), time.monotonic()
    victims = Victims(folder, "embedded", "everysec")
    network = Network(int(str(victims.service.settings["port"])))
    application = Application(network.url, folder / "acknowledged", n_events)
    try:
        for number in range(1, n_faults + 1):
            wanted = n_events * number // (n_faults + 1)
            wait_for(victims, application, wanted)
            fault = FAULTS[number % len(FAULTS)] if number <= len(FAULTS) else chance.choice(FAULTS)
            happen(fault, victims, network, application, MOST_S * chance.random())
            faults[fault] += 1
            if show:
                sys.stderr.write(
                    f"\r{faults.total()} faults, {len(application.acknowledged)} events "
                )
        wait_for(victims, application, n_events)
        until(lambda: application.is_done, within_s=60)
        until(victims.is_ready, within_s=90)
        acknowledged = application.acknowledged
        assert len(set(acknowledged)) == n_events
        replayed = check(victims.service, victims.url, set(acknowledged), victims.before)
        return Result(
            faults, len(set(acknowledged)), len(replayed.admitted), time.monotonic() - started
        )
    finally:
        application.close()
        network.close()
        victims.close()


def wait_for(victims: Victims, application: Application, n: int) -> None:
    """Wait until so many events are acknowledged; start the service if it has ended by itself."""

    def is_there() -> bool:
        victims.revive()
        return len(application.acknowledged) >= n

    until(is_there, within_s=300)


def happen(
    fault: str, victims: Victims, network: Network, application: Application, seconds: float
) -> None:
    """Let one thing happen; what lasts, lasts for so many seconds."""
    if fault == "client":
        application.kill()
    elif fault == "service":
        victims.kill_service()
    elif fault == "cut":
        network.cut()
    else:
        with network.down() if fault == "down" else network.deaf():
            time.sleep(seconds)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-client-kills-") as folder:
        result = run(
            n_events=asked.events,
            n_faults=asked.faults,
            seed=asked.seed,
            folder=Path(folder),
            show=True,
        )
    sys.stdout.write(
        f"\n{dict(result.faults)} in {result.seconds:.0f} s; {result.n_acknowledged} events"
        f" acknowledged, each admitted once ({result.n_admitted} in the log)\n"
    )


if __name__ == "__main__":
    main()
