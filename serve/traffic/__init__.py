"""Several versions of a model share its requests: a split, a shadow, and the rule that ends the trial."""
