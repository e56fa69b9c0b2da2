"""A trained model as files that load without this package."""
