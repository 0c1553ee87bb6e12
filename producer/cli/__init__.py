"""The command line: one file per verb, ``render`` for people, ``--json`` for machines."""
