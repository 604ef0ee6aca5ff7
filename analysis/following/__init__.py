"""Analyze a run again while it is being recorded, or watch it for what the user names."""
