"""Reading and writing: images and masks, files and folders, weights. Knows no model and needs no torch."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "files": "atomic_folder atomic_write cache_dir",
        "images": "read_image to_grey to_rgb_uint8 write_image write_mask_beside",
        "masks": "MaskRule StoredMask read_stored_mask",
        "volumes": "Volume is_volume open_volume read_slice read_volume write_mask_like",
    },
)
