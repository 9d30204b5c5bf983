"""The page of a label space: every merge with its evidence, conflicts, and the difference of two taxonomies."""
