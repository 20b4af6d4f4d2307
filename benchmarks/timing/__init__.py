"""The measurements behind `python -m benchmarks.speed`."""
