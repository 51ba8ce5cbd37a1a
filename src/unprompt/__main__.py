"""``python -m unprompt`` is the command line too."""

from unprompt.cli import main

main()
