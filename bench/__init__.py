"""Benchmarks of the running service. Each module is a command: `python -m bench.adapters --help`."""
