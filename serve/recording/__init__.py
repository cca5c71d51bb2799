"""Keep a bounded sample of the images that callers allow to be stored, with what was answered."""
