"""From images to label maps and segments at native size: every view is encoded once, then all questions are asked."""
