"""What makes a benchmark worthless."""


class BenchError(Exception):
    """A move failed, or what it left behind is not what it should be: there is nothing to measure."""
