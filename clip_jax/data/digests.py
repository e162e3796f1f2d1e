"""Fingerprints of data: sha256 over what identifies it."""

import hashlib
import json

import numpy as np


def digest(*parts: object) -> str:
    """sha256 (hex) over JSON-like values, numpy arrays and bytes, with type and length of each."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head = [part.dtype.str, part.shape]
            body = np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            head, body = ["bytes", len(part)], part
        else:
            text = json.dumps(part, sort_keys=True, default=str)
            body = text.encode("utf-8", "surrogatepass")
            head = ["json", len(body)]
        whole.update(json.dumps(head).encode() + b"\n" + body)
    return whole.hexdigest()
