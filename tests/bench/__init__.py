"""Benchmarks on the lab: herder beside what LXD's own tools do, on the same servers in the same run.

`python -m tests.bench.downtime` moves one large instance, `python -m tests.bench.evacuate` empties a server. Downtime
is measured from inside: every instance has a writer (`writer.py`) whose stamps tell when it did not run.
"""
