"""The error that a user can put right."""


class UserError(Exception):
    """Something that only the user can put right; the message says what, in one line."""
