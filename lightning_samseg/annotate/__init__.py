"""An expert in AuxOL's loop: a folder of images in, masks out, learned from image by image."""
