"""The feature store: rows of numbers that were computed once, kept in the user's cache folder for later runs."""
