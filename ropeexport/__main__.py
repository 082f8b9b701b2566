"""``python -m ropeexport`` is the ``ropeexport`` command."""

from ropeexport.cli.main import main

main()
