"""The choice of recipe, cut and learning rate by cross-validation, and the test for horizontal flips."""
