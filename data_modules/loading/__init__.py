"""Datasets, samplers and the cache of decoded files."""
