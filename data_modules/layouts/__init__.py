"""What lies where in each data set: items, labels, splits. Nothing here imports torch, so that listing is instant."""
