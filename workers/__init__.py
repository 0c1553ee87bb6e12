"""Everything that touches instances: ``python -m workers`` takes wake-ups and runs the steps of jobs."""
