"""Recipes: what each one trains, and how. Adding one takes a file here and a line in `registry`."""
