"""``python -m ropeexport`` is the ``ropeexport`` command."""

import os
import sys

try:
    current = os.getcwd()
except FileNotFoundError:  # it was removed
    current = ""
if not sys.flags.safe_path and sys.path[0] in ("", current):
    del sys.path[0]  # Python puts the current folder in front, whose files are no modules of ours

from ropeexport.cli.main import main

main()
