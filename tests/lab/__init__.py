"""The lab: real servers of LXD and Incus on this machine, for tests and for the demo.

`lab.py` is the door: `Lab.up()`, `Lab.load()`, `lab.servers`, `lab.down()`. On the command line:
`python -m tests.lab up`, `down`, `status`. Nothing that is shipped imports the lab.
"""

from tests.lab.errors import LabError, LabUnavailableError, RefusedError
from tests.lab.lab import CLUSTER, INCUS_MACHINE_SERVERS, INCUS_SERVERS, MACHINE_SERVERS, SERVERS, STANDALONE, Lab
from tests.lab.server import LabServer

__all__ = [
    "CLUSTER",
    "INCUS_MACHINE_SERVERS",
    "INCUS_SERVERS",
    "MACHINE_SERVERS",
    "SERVERS",
    "STANDALONE",
    "Lab",
    "LabError",
    "LabServer",
    "LabUnavailableError",
    "RefusedError",
]
