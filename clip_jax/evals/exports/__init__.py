"""Results in the formats of other evaluation programs, for tools that read those.

Neither format says how a figure was measured: a record of another protocol than theirs has one more
key here, ``protocol``, which their readers carry along. Skipped records are left out.
"""
