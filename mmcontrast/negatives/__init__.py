"""Who is a negative of whom, and how much it counts."""

from .known import known_positives, mask_log_weights

__all__ = ["known_positives", "mask_log_weights"]
