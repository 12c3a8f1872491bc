"""Sluice: online-learning recommendations that are boring to run.

Personal state moves at the speed of events. Shared state moves at the speed of evidence.

Seven rules:

1. The log is the truth: all state is a function of it, and the same log gives the same bytes.
2. Personal at the speed of events, shared at the speed of evidence.
3. The core is pure: the engine does no I/O, reads no clock, and returns what must be done.
4. Shadow learns, champion serves, anchor remembers.
5. Reads degrade, writes refuse.
6. No pickle, anywhere.
7. Say what happened.

Read in this order: `events` (what is in the log), `engine` (what an entry does), `admission`,
`recommend`, `gate`, `ingest` (the one loop), `store`, `snapshot`, `api`, `main`.
"""
