"""Rows to bytes on a disk or in a bucket, in an order that survives a kill."""
