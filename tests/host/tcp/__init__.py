"""The TCP engine: traces per behaviour, the states, and two engines over a bad link."""
