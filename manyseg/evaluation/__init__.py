"""Evaluation: protocols, confusion, panoptic quality, knowledgeability, gradient conflicts."""
