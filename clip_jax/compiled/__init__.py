"""Train steps compiled for devices that are not there: what they need, and which is best."""
