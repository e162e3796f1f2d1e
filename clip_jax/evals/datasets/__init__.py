"""The evaluation datasets of the paper: catalog, prompts and location."""
