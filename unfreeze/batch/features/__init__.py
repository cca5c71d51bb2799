"""Fill the feature store for a backbone, so that a later run reads what it needs of very many images."""
