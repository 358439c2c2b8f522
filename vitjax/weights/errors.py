"""The one error that weights raise for a user."""


class WeightsError(ValueError):
    """Weights that cannot be fetched, read or fitted; the text says what and what to do."""
