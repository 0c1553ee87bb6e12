"""Thirty random trials, other ones each time; see docs/how-to/run-the-crash-campaign.md."""

import random
import subprocess
import sys

SEEDS = 30


def test_random_trials_break_no_promise() -> None:
    """Never two running copies, never zero good ones, nothing lost, nothing left; a failure tells its seed."""
    first = random.SystemRandom().randrange(10**9)
    command = [sys.executable, "-m", "tests.campaign", "--seeds", str(SEEDS), "--first", str(first)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"seeds from {first} on:\n{ran.stdout}\n{ran.stderr}"
