"""Images whose label or content is suspicious: found, written to a file, and left out or corrected in a later run."""
