"""Generated images with known masks, for demos and tests."""
