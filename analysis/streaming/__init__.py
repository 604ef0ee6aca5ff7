"""One pass over the rows: blocks of rows become sums that merge."""
