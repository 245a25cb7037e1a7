"""What only a GPU can say: `python -m benchmarks.gpu`, part by part, into docs/results-gpu.json and a table."""
