"""The benchmark behind `scripts/bench`: every figure from a live `reprise run` on the machine at hand.

Each measure starts a run of its own (a fresh data directory, a free port) against one scripted upstream, and clients
in processes of their own; `python -m tests.bench --help` lists the measures. Nothing here ever fails on speed.

==============  =====================================================================================
``harness``     the run, the upstream, their processes and CPU time
``wire``        HTTP/1.1 by hand: requests, the head of an answer, chunks undone as they arrive
``crowd``       a process with many observers: counts, checks, stamps
``callers``     a process that starts messages or asks for statuses, and times the answers
``nchan``       the same fan-out by nginx's nchan module, where it is installed
``fanout``      P1, P2, P8, P10
``tokens``      P3, P4, P5, P9
``control``     P6, P7, P11, P16
``report``      figures, bars, the table, JSON, the README's block
==============  =====================================================================================

Times are `time.monotonic_ns`, which all processes of one Linux machine share: the upstream's tokens carry theirs.
"""
