"""One segmentation model from many datasets whose labels disagree."""

__version__ = "0.1.0"
