"""``python -m ropeexport`` is the ``ropeexport`` command."""

import os
import sys
from contextlib import suppress

if not sys.flags.safe_path:
    with suppress(FileNotFoundError):  # the current folder is gone
        if sys.path[0] == os.getcwd():
            del sys.path[0]  # Python puts it in front, and its files are no modules of ours

from ropeexport.cli.main import main

main()
