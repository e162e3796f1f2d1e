"""The one way in which fingerprints are made of settings."""

import hashlib
import json

# What a JSON file may hold.
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def json_digest(value: object) -> str:
    """sha256 (hex) over a JSON-like value; what JSON does not know counts by its ``str``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
