"""The embedded dataset: emoji of several vendors with their names and keywords."""
