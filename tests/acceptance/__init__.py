"""Whole stories through the command line, against real LXD servers.

``story.py`` runs herder as a person would, ``world.py`` makes instances and looks at them as the servers tell, never
through herder's own client; ``watcher.py`` sees that nothing ever runs twice, ``choke.py`` holds a transfer in its
middle, ``dying_worker.py`` is a worker that dies at a chosen moment.
"""

import pytest

pytest.register_assert_rewrite("tests.acceptance.story", "tests.acceptance.world")
