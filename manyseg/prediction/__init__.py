"""Images and folders to files: label maps, overlays, areas with ids."""
