"""What a parity run costs, and whether a correct export passes ten thousand random cases."""
