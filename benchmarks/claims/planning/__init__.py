"""What planning in a fitted world model is worth: `python -m benchmarks.claims.planning`."""
