"""The parts of an evaluation's report: what their templates show, from a list of records."""
