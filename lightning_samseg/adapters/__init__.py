"""What is trained: saved, read back, and read from other people's files."""
