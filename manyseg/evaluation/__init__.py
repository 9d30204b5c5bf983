"""The one evaluation: protocols, confusion, panoptic quality, knowledgeability, gradient conflicts."""
