"""What an audit looks at, one check per file."""
