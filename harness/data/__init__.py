"""Data: where samples come from, read by position, checked as a whole, pictures decoded late."""
