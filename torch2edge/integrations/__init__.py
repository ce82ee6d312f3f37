"""Doors to other libraries: a file or folder each, imported only on demand; they stand on top of the public API."""
