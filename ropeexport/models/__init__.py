"""MODEL: built-ins, the user's factories, the libraries' models; each an example to trace."""
