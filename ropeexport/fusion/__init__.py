"""Recognition: rotary applications found in a graph by their algebra, proven, and replaced."""
