"""The one error that a user's mistake or broken data raises."""

__all__ = ["UserError"]


class UserError(Exception):
    """Data, a recipe or a run is at fault; the message is one line: what, where (file, value, count), what to do.

    The command line prints the message without a traceback and exits with 1.
    """
