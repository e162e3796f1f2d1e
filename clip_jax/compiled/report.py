"""What the compiler says of a train step, for people and for programs."""

import dataclasses

SHOWN = 12  # collectives on screen; the JSON file has them all


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of a train step, per device.

    Attributes:
      topology, devices, mesh, batch: what was compiled.
      execution: how the step is computed, and why.
      loss: name and implementation of the loss.
      memory: bytes: arguments, outputs, temporaries, aliased, total.
      capacity: bytes of the device; 0: not known.
      fits: whether the compiler took it.
      problem: what the compiler said where it did not.
      flops: of a step on one device, in closed form (``models.flops``).
      recomputed_flops: those that rematerialisation adds.
      compute_seconds: both at the device's peak; 0: not known.
      link_seconds: the received bytes at the bandwidth of the links; 0: not known.
      received: bytes a device receives in a step from others of its slice.
      between_slices: bytes it receives from other slices, at most.
      collectives: those that move most first, as dicts.
      moves: copies and updates of arrays within a device, likewise.
      compile_seconds: how long this took.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    batch: int
    execution: str
    loss: str
    memory: dict[str, int]
    capacity: int
    fits: bool
    problem: str
    flops: int
    recomputed_flops: int
    compute_seconds: float
    link_seconds: float
    received: int
    between_slices: int
    collectives: list[dict[str, str | int]]
    moves: list[dict[str, str | int]]
    compile_seconds: float

    @property
    def step_seconds(self) -> float:
        """The least that a step can take: all transfers hidden behind the arithmetic, or all
        arithmetic behind the transfers.
        """
        return max(self.compute_seconds, self.link_seconds)

    @property
    def best_mfu(self) -> float:
        """Model FLOPs utilisation at that: the bound, not a prediction."""
        if not self.step_seconds:
            return 0.0
        useful = self.flops / (self.flops + self.recomputed_flops)
        return useful * self.compute_seconds / self.step_seconds


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**30:,.2f} GiB"


def verdict(r: Report) -> str:
    """Whether the step fits, in words."""
    if r.problem:
        return f"does not fit: {r.problem}"
    if not r.capacity:
        return f"needs {gib(r.memory['total'])}"
    return f"{'fits' if r.fits else 'does not fit'}: {gib(r.memory['total'])} of {gib(r.capacity)}"


def table(r: Report) -> str:
    """A report for people."""
    m = r.memory
    axes = ", ".join(f"{k} {v}" for k, v in r.mesh.items() if v > 1) or "one device"
    lines = [
        f"{r.topology}: {r.devices} devices ({axes}), batch {r.batch:,}, compiled in "
        f"{r.compile_seconds:.0f} s",
        f"  execution          {r.execution}",
        f"  loss               {r.loss}",
        f"  memory             {verdict(r)}",
    ]
    if not r.problem:
        lines += [
            f"    arguments        {gib(m['arguments'])}",
            f"    outputs          {gib(m['outputs'])}, of which in place {gib(m['aliased'])}",
            f"    temporaries      {gib(m['temporaries'])}",
            f"  FLOPs a step       {r.flops:.3e} on each device{_recomputed(r)}",
            f"  received a step    {r.received / 1e6:,.1f} MB by each device",
            f"  copied a step      {sum(m['size'] for m in r.moves) / 1e6:,.1f} MB within a device",
        ]
        if r.between_slices:
            lines += [
                f"  from other slices  {r.between_slices / 1e6:,.1f} MB at most, through the "
                "hosts' network, whose time is not counted below"
            ]
        if r.capacity:
            lines += [
                f"  step at the least  {1e3 * r.step_seconds:,.1f} ms "
                f"(arithmetic {1e3 * r.compute_seconds:,.1f}, links {1e3 * r.link_seconds:,.1f}): "
                f"MFU at most {r.best_mfu:.0%}",
            ]
        lines += [
            f"    {c['kind']:<19}{c['count']:>6} x {c['shape'][:44]:<46}"
            f"{c['received'] / 1e6:>10,.1f} MB"
            for c in r.collectives[:SHOWN]
        ]
    return "\n".join(lines)


def _recomputed(r: Report) -> str:
    if not r.recomputed_flops:
        return ""
    return f", and {r.recomputed_flops / r.flops:.0%} more that are recomputed"


def as_dict(r: Report) -> dict[str, object]:
    """A report for programs; without the figures of a program that was not made."""
    fields = dataclasses.asdict(r) | {"step_seconds": r.step_seconds, "best_mfu": r.best_mfu}
    unknown = ("memory", "moves", "received", "between_slices", "collectives", "link_seconds",
               "step_seconds", "best_mfu")  # fmt: skip
    return fields | dict.fromkeys(unknown) if r.problem else fields
