"""What producer and workers must agree on.

``domain`` holds pure values and rules, ``lxd`` speaks the LXD REST API, ``store`` keeps jobs in Redis, and
``config``, ``logs``, ``messages`` and ``broker`` wire them together. Nothing here imports ``producer`` or ``workers``.
"""
