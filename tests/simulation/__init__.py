"""A deterministic simulation: the real services on a simulated log, clock and machine room.

    python -m tests.simulation --seeds 1000            seeds that break a promise are printed
    python -m tests.simulation --seed 42 --trace       replays one exactly, and says what happens
    python -m tests.simulation.planted                 takes the rules away, one by one

Executors, projectors, replays and ingest's commands run as they are, on an event loop whose time is virtual,
and on which each can be frozen (`clockwork`). Each has its own door (`node`) to the one log in memory
(`log`), through which appends and commits are late, lost or ambiguous, and which can be shut, with records in
flight. From one seeded source of chance `clients` create, wait, cancel and delete at ingests (`ingest`),
`readers` read at replays, `faults` bring the trouble that a `plan` asks for, and `world` plays it all.
`truth` reads the protocol a second time, record by record; `promises` holds against it what is called,
written, committed and read, `answers` what clients are told. `planted` shows that they would notice.
"""
