"""Errors that are the user's to mend."""


class UserError(Exception):
    """Something the user can put right: a missing file, a wrong option, an absent package.

    Its message is one clear sentence; ``python -m hiervl`` prints it without a traceback and exits with 2.
    """
