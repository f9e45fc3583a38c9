"""What stops a local service from starting, said in one line for the person who asked for it."""


class CannotStart(Exception):
    """The message says what is missing or wrong, and what to do about it."""
