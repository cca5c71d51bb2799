"""Recipes: what each trains, and from which weights it starts."""
