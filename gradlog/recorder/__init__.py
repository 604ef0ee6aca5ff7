"""What a training loop calls: open a run, give it gradients, close it."""
