"""The stages as one model: shared work, collapse, files, take-over."""
