"""``python scripts/export.py ...`` is ``ropeexport export ...``, from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ropeexport.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    main()
