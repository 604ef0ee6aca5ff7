"""Small things that every wing needs: text, jackknife intervals, BLAS threads."""
