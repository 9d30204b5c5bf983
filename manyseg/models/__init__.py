"""Networks that know nothing of labels."""

from manyseg.models.pixel import Features, Pixels

__all__ = ["Features", "Pixels"]
