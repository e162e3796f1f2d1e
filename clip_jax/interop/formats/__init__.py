"""One module a weight layout."""
