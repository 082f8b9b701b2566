"""Reports for people and machines, each a function of the records of one parity run."""
