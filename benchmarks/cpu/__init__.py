"""The CPU's measurements: attention in each runtime, the export's cost, the command's start."""
