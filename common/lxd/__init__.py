"""The LXD REST API, as far as herder needs it; Incus differs in details that stay inside this package.

``remotes`` and ``trust`` say which servers there are and how we know each other, ``connect`` makes a client of a
remote, ``client`` has one method per call and ``events`` the stream of what happens. Below them ``transport`` carries
requests over ``tls``, ``faults`` turns what goes wrong into ``common.domain.errors``, and ``records`` and ``migration``
know the JSON.
"""
