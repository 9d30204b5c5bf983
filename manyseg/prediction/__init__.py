"""Images and folders to files: label maps, overlays, panoptic files."""
