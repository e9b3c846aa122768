"""The parts of benchmarks/planner.py: the world that is planned, and everybody who plans it."""
