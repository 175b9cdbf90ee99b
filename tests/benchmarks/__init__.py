"""denseport's time and memory beside what people would use in its place: `python -m tests.benchmarks`."""
