"""The crash campaign: what herder claims about dying anywhere, tried on simulated servers in virtual time.

Real runner, steps, store, scripts and Redis; simulated servers (``tests.simulator``), worker processes and time.
``python -m tests.campaign --seeds N`` runs random trials, each of which its seed makes again.

``baton`` lets workers take turns, ``line`` and ``door`` are a worker's ways to Redis and to the servers, ``world`` is
one trial's machinery, ``scenario`` draws what happens in it, ``checker`` judges it by the servers' history alone.
"""
