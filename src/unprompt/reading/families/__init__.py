"""One module per family of generators; `unprompt.reading.registry` has a row for each."""
