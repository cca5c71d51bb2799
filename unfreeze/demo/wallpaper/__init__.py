"""Drawn images of the 17 wallpaper groups, the possible symmetries of a repeating pattern in the plane."""
