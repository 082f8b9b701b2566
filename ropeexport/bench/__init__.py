"""Speed, side by side: what an export gained against what its user would run instead."""
