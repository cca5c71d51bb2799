"""Recognize the names of files and folders that archives, editors and operating systems leave behind."""

# Names in lower case, each with its spelling and origin for messages.
_LEFTOVERS = {
    "__macosx": "__MACOSX (macOS)",
    ".appledouble": ".AppleDouble (macOS)",
    ".apdisk": ".apdisk (macOS)",
    ".documentrevisions-v100": ".DocumentRevisions-V100 (macOS)",
    ".ds_store": ".DS_Store (macOS)",
    ".fseventsd": ".fseventsd (macOS)",
    ".localized": ".localized (macOS)",
    ".spotlight-v100": ".Spotlight-V100 (macOS)",
    ".temporaryitems": ".TemporaryItems (macOS)",
    ".trashes": ".Trashes (macOS)",
    "icon\r": "folder icon (macOS)",
    "$recycle.bin": "$RECYCLE.BIN (Windows)",
    "desktop.ini": "desktop.ini (Windows)",
    "ehthumbs.db": "ehthumbs.db (Windows)",
    "ehthumbs_vista.db": "ehthumbs_vista.db (Windows)",
    "recycler": "RECYCLER (Windows)",
    "system volume information": "System Volume Information (Windows)",
    "thumbs.db": "Thumbs.db (Windows)",
    "lost+found": "lost+found (Linux)",
    ".directory": ".directory (KDE)",
    ".thumbnails": ".thumbnails (Linux)",
    "#recycle": "#recycle (Synology)",
    "#snapshot": "#snapshot (Synology)",
    "@eadir": "@eaDir (Synology)",
    ".@__thumb": ".@__thumb (QNAP)",
    "@recently-snapshot": "@Recently-Snapshot (QNAP)",
    "@recycle": "@Recycle (QNAP)",
    ".ipynb_checkpoints": ".ipynb_checkpoints (Jupyter)",
    "__pycache__": "__pycache__ (Python)",
    ".dvc": ".dvc (DVC)",
    ".git": ".git (Git)",
    ".gitattributes": ".gitattributes (Git)",
    ".gitignore": ".gitignore (Git)",
    ".gitkeep": ".gitkeep (Git)",
    ".hg": ".hg (Mercurial)",
    ".svn": ".svn (Subversion)",
    ".idea": ".idea (editor)",
    ".vscode": ".vscode (editor)",
    ".picasa.ini": ".picasa.ini (Picasa)",
    "picasa.ini": "picasa.ini (Picasa)",
}


def leftover_kind(name: str) -> str | None:
    """Return the kind of a leftover or hidden entry, for messages; None for any other name.

    Args:
        name: of a file or folder, without its parents. Case is ignored.
    """
    if name.startswith("._"):
        return "._* (macOS)"
    if (known := _LEFTOVERS.get(name.lower())) is not None:
        return known
    if name.endswith("~"):
        return "*~ (editor backup)"
    return "hidden" if name.startswith(".") else None
