"""What proves that data is what was written: fingerprints of arrays, digests of files."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.runtime import distributed
from clip_jax.runtime.digests import json_digest
from clip_jax.runtime.mesh import PyTree


class Mismatch(ValueError):
    """What is stored belongs to a run that this config, data or model cannot continue."""

    exit_code = distributed.MISMATCH


def _mix(x: jax.Array, multiplier: int) -> jax.Array:
    """A bijection of 32-bit integers (the finaliser of MurmurHash3, with a varying factor)."""
    x = (x ^ (x >> 16)) * jnp.uint32(multiplier)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


@jax.jit  # traced once for all leaves of one shape
def _leaf_fingerprint(x: jax.Array) -> jax.Array:
    """uint32[2]: changes whenever one element changes, whatever the sharding.

    Two sums over bijective mixes of (bits, position): integer addition does not depend on order,
    so that no device count and no layout changes the result.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        width = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    else:
        bits = x.astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
        stride = stride * x.shape[axis] % 2**32
    keyed = bits ^ _mix(position, 0x9E3779B1)
    return jnp.stack([_mix(keyed, m).sum(dtype=jnp.uint32) for m in (0x85EBCA6B, 0x27D4EB2F)])


@jax.jit
def _fingerprints(tree: PyTree) -> list[jax.Array]:
    return [_leaf_fingerprint(x) for x in jax.tree.leaves(tree)]


def fingerprint(tree: PyTree) -> dict[str, str]:
    """Path of each leaf -> 16 hex digits that identify its contents on any mesh."""
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    sums = jax.device_get(_fingerprints(tree))
    return {p: f"{int(a):08x}{int(b):08x}" for p, (a, b) in zip(paths, sums, strict=True)}


def combined(fingerprints: dict[str, str]) -> str:
    """One hex string for a whole tree."""
    return json_digest(fingerprints)[:32]


def file_digests(folder: Path, share: int = 0, of: int = 1) -> dict[str, str]:
    """Relative path -> sha256 of every ``of``-th file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files[share::of]
    }


def _described(tree: PyTree) -> dict[str, str]:
    """Path of each array of a tree -> its type and shape."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.dtype(x.dtype)}{[*x.shape]}"
        for path, x in leaves
        if hasattr(x, "shape")
    }


def check_tree(step: int, fingerprints: dict[str, str], stored: PyTree, wanted: PyTree) -> None:
    """Compares the arrays of a step with those of the present model.

    Raises:
      Mismatch: they differ; the message names the first paths.
      ValueError: what the step says of itself does not fit together.
    """
    before, now = _described(stored), _described(wanted)
    paths = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(wanted)[0]}
    if len(before) != len(fingerprints) or (
        paths == fingerprints.keys() and before.keys() != now.keys()
    ):
        raise ValueError("its metadata does not list the arrays that were saved")
    lines = [
        f"{path}: {before.get(path, 'absent')} (stored) -> {now.get(path, 'absent')} (this model)"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]
    if lines:
        more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise Mismatch(
            f"the checkpoint of step {step} holds another model or optimizer:\n  "
            + "\n  ".join(lines[:8] + more)
            + "\nGive another --workdir for a new run, or the config and version of the old one."
        )
