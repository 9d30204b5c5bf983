"""One segmentation model from many datasets whose labels disagree."""
