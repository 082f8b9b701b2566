"""The front door: every verb as a function.

Paths are ``str`` or :class:`~pathlib.Path`, options are keywords with the names of the command
line's, results are typed.  The package's own names are these, see :mod:`ropeexport`.
"""
