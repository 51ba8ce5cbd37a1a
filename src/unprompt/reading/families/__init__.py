"""One module per family of generators; `family_registry` has a row for each."""
