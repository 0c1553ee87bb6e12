"""Tests, the lab of real servers, and benchmarks."""
