"""What the studies share: training in memory, units of work, intervals, tables. Their worlds and arms are their own."""
