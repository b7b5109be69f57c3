"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """Bad input, with a message that names the remedy.

    Command lines print the message and leave with exit code 2; they show no traceback.
    """
