"""From the sums of a pass to numbers, each with its interval and baseline. Pure numpy."""
