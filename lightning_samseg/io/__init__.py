"""Reading and writing: images and masks, files and folders, weights."""
