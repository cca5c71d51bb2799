"""The demonstration: images of the 17 wallpaper groups, tuned, exported and served on this machine alone."""
