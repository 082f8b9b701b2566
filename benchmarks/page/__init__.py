"""docs/benchmarks.md and README's numbers, from the committed results alone."""
