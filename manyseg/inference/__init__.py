"""Images to label maps and segments at native size; every view of an image is encoded once for all label spaces."""
