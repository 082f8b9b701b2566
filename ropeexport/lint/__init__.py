"""The audit of a file: what costs accuracy or speed in production, with a severity and the mend."""
