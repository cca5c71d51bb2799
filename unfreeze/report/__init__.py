"""The report of a tuning run: one HTML file that people look at."""
