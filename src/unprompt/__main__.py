"""``python -m unprompt`` runs the command line."""

from unprompt.cli import main

main()
