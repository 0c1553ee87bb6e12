"""``python -m tests.campaign``: random trials until enough seeds were tried; one line of JSON at the end."""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import current_process, get_context

import redis

from tests.campaign.line import load_scripts
from tests.campaign.scenario import KINDS, draw
from tests.campaign.trial import Result, run
from tests.integration.redis_server import RedisServer

_PROCESSES = 2
_pools: dict[str, redis.ConnectionPool] = {}


def main() -> int:
    """Exit status 0 if there was no violation, 1 if there was one."""
    arguments = _parse()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets decides about the order of requests: without this a seed would not make a trial again.
        again = [sys.executable, "-m", "tests.campaign", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    server = RedisServer()
    server.start()
    try:
        return _replay(arguments.seed, server) if arguments.seed is not None else _campaign(arguments, server)
    finally:
        server.close()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many trials")
    parser.add_argument("--first", type=int, help="the first seed; otherwise drawn")
    parser.add_argument("--seed", type=int, help="make this trial again and tell its story")
    parser.add_argument("--processes", type=int, default=_PROCESSES, help="how many trials at a time")
    return parser.parse_args()


def _replay(seed: int, server: RedisServer) -> int:
    scenario = draw(seed)
    for part in (*scenario.servers, *scenario.machines, *scenario.wishes, *scenario.strikes):
        print(part)
    result = try_seed(seed, server.url)
    print("\n".join(result.story))
    for violation in result.violations:
        print("VIOLATION", violation)
    print(_as_json([result]))
    return int(bool(result.violations))


def _campaign(arguments: argparse.Namespace, server: RedisServer) -> int:
    first = random.SystemRandom().randrange(10**9) if arguments.first is None else arguments.first
    seeds = range(first, first + arguments.seeds)
    print(f"seeds {seeds[0]} to {seeds[-1]}", flush=True)
    began = time.monotonic()
    results = []
    for result in results_of(seeds, server.url, arguments.processes):
        results.append(result)
        for violation in result.violations:
            print(f"VIOLATION seed {result.seed}: {violation}")
        if result.violations:
            print(f"    again: python -m tests.campaign --seed {result.seed}", flush=True)
    print(summary(results, time.monotonic() - began))
    print(_as_json(results))
    return int(any(result.violations for result in results))


def results_of(seeds: range, url: str, processes: int) -> Iterator[Result]:
    """Trials, as they end. Each process has a database of its own in the one Redis."""
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(_try, [(seed, url) for seed in seeds], chunksize=4)


def _try(what: tuple[int, str]) -> Result:
    return try_seed(*what)


def try_seed(seed: int, url: str) -> Result:
    """One trial, in the database of this process."""
    if url not in _pools:
        number = _database()
        _pools[url] = redis.ConnectionPool.from_url(f"{url}?db={number}")
        load_scripts(_pools[url])
    return run(draw(seed), _pools[url])


def _database() -> int:
    identity = current_process()._identity
    return (identity[0] % 15) + 1 if identity else 0


def summary(results: list[Result], seconds: float) -> str:
    """For people."""
    faults, states = _totals(results)
    lines = [
        f"{len(results)} trials in {seconds:.0f} s, {sum(r.seconds for r in results) / 3600:.1f} h of virtual time"
    ]
    lines.append("jobs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    lines += [f"  {kind:20} {faults[kind]:6}" for kind in KINDS]
    lines.append(f"{sum(len(result.violations) for result in results)} violations")
    return "\n".join(lines)


def _totals(results: list[Result]) -> tuple[Counter[str], Counter[str]]:
    faults: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for result in results:
        faults += result.faults
        states += result.states
    return faults, states


def _as_json(results: list[Result]) -> str:
    faults, _ = _totals(results)
    violations = sum(len(result.violations) for result in results)
    counted = {kind: faults[kind] for kind in KINDS}
    return json.dumps({"trials": len(results), "faults": counted, "violations": violations})


if __name__ == "__main__":
    sys.exit(main())
