"""Networks that know nothing of labels."""

from manyseg.models.pixel_encoder import Features, PixelEncoder

__all__ = ["Features", "PixelEncoder"]
