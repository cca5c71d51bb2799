"""The folder for what can be computed again: the user's cache folder, or the one that a variable names."""

import os
from pathlib import Path

FOLDER_VARIABLE = "UNFREEZE_CACHE_DIR"


def cache_folder() -> Path:
    """Return UNFREEZE_CACHE_DIR, or the folder `unfreeze` in the user's cache folder."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    import platformdirs  # part of the extras whose code keeps anything here

    return platformdirs.user_cache_path("unfreeze")
