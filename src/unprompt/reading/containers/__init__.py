"""One module per container format; `container_registry` picks the one that reads a file."""
