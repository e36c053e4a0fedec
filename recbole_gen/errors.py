"""The one exception for mistakes of the user: the command line prints its message without a traceback."""


class UserError(ValueError):
    """Bad input. The message names the cause and the cure."""
