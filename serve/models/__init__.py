"""The models of a server: loading, verification, lookup and replacement."""
