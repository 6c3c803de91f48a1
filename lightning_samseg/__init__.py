"""PyTorch Lightning experiments that adapt Segment Anything to medical images: CPC-SAM and AuxOL."""

__version__ = "0.1.0"
