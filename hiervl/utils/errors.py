"""Errors that the user can fix."""


class UserError(Exception):
    """An error that the user can fix: a missing file, a wrong option, an absent package.

    Its message is one clear sentence; ``python -m hiervl`` prints it without a traceback and exits with 2.
    """
