"""Time and memory of pellucid beside its peers, measured in one run: `python -m benchmarks --help`."""
