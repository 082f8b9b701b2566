"""Parity for other people's tests: assertions that NaN, a wrong shape or nothing at all fail.

``assert_parity`` holds arrays to a float64 reference and ``assert_export_parity`` an export to its
module.  Both keep a note of what they compared (:mod:`ropeexport.testing.log`), which the pytest
plugin prints at the end of a run.  NumPy alone is imported here.
"""

from ropeexport.testing.arrays import assert_parity
from ropeexport.testing.exports import assert_export_parity
from ropeexport.testing.log import Note

__all__ = ["Note", "assert_export_parity", "assert_parity"]
