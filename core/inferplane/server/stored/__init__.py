"""What outlives a request: answers, files and batches, in SQLite and beside it."""
