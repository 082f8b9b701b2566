"""Export of a model at full size from files that nobody reads."""
