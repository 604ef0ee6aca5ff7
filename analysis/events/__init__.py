"""Finds the steps at which a run leaves its usual course, and says what is known of each."""
