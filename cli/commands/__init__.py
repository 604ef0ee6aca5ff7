"""One file per command: each parses, makes one call of the analyzer, prints."""
