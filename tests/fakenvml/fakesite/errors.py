"""The one exception of this command: a sentence for the person who typed it."""


class SiteError(Exception):
    """The wish can't be met; the text says why."""
