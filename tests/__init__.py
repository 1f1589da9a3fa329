"""Tests, the demonstration and the benchmark; `tests.lab` is what they share."""
