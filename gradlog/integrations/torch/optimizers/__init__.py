"""Follow torch optimizers: when a step begins and is over, and what it was handed."""
