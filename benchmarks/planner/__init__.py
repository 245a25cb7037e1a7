"""What it costs to start, to plan and to read at 2e9 samples, on a machine without them."""
