"""Finished runs as tables and figures, beside the papers' numbers."""
