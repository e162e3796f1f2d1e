"""The evaluation data sets of the paper: catalog, prompts and where they lie."""
