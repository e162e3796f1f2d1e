"""The embedded data set: emoji of several vendors with their names and keywords."""
