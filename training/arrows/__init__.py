"""What lies between two artifacts of a run, one module an arrow; each is skipped when what it makes stands finished."""
