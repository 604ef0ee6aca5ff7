"""The eight training runs of arXiv 2601.04270, each a plain torch script that records with gradlog."""
