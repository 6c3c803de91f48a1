"""One run: what it goes on from, what it was told, and what works around the trainer."""
