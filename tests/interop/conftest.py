"""Random small models, and a stand-in for torch.save, so that tests need no PyTorch."""

import io
import pickle
import zipfile

import jax
import numpy as np
import pytest

from clip_jax.interop import readers, tree, weights
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig

KINDS = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip


class Name:
    """Pickles as a reference to a name, whether or not there is such a thing."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        raise AssertionError("pickle only wants to know whether it could be called")


class Made:
    """Pickles as a call of a name, and as a state given to the result."""

    def __init__(self, path, *arguments, state=None):
        self.path, self.arguments, self.state = path, arguments, state

    def __reduce__(self):
        return Name(self.path), self.arguments, self.state


class Stored:
    """Pickles as a reference to a storage."""

    def __init__(self, kind, key, numel):
        self.kind, self.key, self.numel = kind, key, numel


class Pickler(pickle._Pickler):
    # The one in C writes no names of modules that are not there.
    tail = ()  # what the legacy format adds to the reference

    def save_name(self, obj):
        module, _, name = obj.path.rpartition(".")
        self.write(f"c{module}\n{name}\n".encode())

    def persistent_id(self, obj):
        if isinstance(obj, Stored):
            return ("storage", Name(f"torch.{obj.kind}"), obj.key, "cpu", obj.numel, *self.tail)

    dispatch = pickle._Pickler.dispatch | {Name: save_name}


class LegacyPickler(Pickler):
    tail = (None,)


class FakeTorch:
    """Collects storages, and saves them with an object."""

    def __init__(self):
        self.storages = {}
        self.made, self.name = Made, Name

    def storage(self, array, numel=None):
        key = str(len(self.storages))
        self.storages[key] = np.ascontiguousarray(array)
        return Stored(KINDS[str(array.dtype)], key, array.size if numel is None else numel)

    def view(self, storage, offset, shape, stride, function="_rebuild_tensor_v2"):
        tail = (False, {}) if function.endswith("v2") else ()
        return Made(f"torch._utils.{function}", storage, offset, shape, stride, *tail)

    def tensor(self, array):
        stride = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        return self.view(self.storage(array.reshape(-1)), 0, array.shape, tuple(stride))

    def dumps(self, obj, pickler=Pickler, protocol=2):
        file = io.BytesIO()
        pickler(file, protocol).dump(obj)
        return file.getvalue()

    def save(self, path, obj, byteorder="little", folder="model", more=(), protocol=2):
        """The zip format; `more` are further records, or others in place of the usual ones."""
        records = {"data.pkl": self.dumps(obj, protocol=protocol), "version": b"3\n"}
        if byteorder:
            records["byteorder"] = byteorder.encode()
        for key, array in self.storages.items():
            swap = byteorder == "big"
            records[f"data/{key}"] = (array.byteswap() if swap else array).tobytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (records | dict(more)).items():
                archive.writestr(f"{folder}/{name}", data)
        return path

    def save_legacy(self, path, obj):
        """The format from before PyTorch 1.6."""
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}
        parts = [0x1950A86A20F9469CFC6C, 1001, system]
        data = b"".join(self.dumps(x) for x in parts) + self.dumps(obj, LegacyPickler)
        data += self.dumps(sorted(self.storages))
        for key in sorted(self.storages):
            array = self.storages[key]
            data += array.size.to_bytes(8, "little") + array.tobytes()
        path.write_bytes(data)
        return path


@pytest.fixture
def fake_torch():
    return FakeTorch()


TEXT = TextConfig(64, 2, 1, 16, 96, 95)
SIGLIP_TEXT = TextConfig(64, 2, 2, 8, 96, 1, causal=False, pool="last")
MODELS = {
    "vit": ClipConfig(24, ViTConfig(32, 8, 64, 3, 1), TEXT),
    "gelu": ClipConfig(24, ViTConfig(32, 8, 64, 1, 1), TEXT, "gelu"),
    "resnet": ClipConfig(24, ResNetConfig(64, (1, 2, 1, 1), 8, 4), TEXT),
    "siglip": ClipConfig(
        64, ViTConfig(32, 8, 64, 2, 2, pool="map"), SIGLIP_TEXT, "gelu_tanh", (0.5,) * 3,
        (0.5,) * 3, 1e-6, logit_bias=True,
    ),
}  # fmt: skip


def random_weights(name, seed=0):
    """Weights with every number random, so that a swapped tensor shows."""
    config = MODELS[name]
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda s: np.abs(rng.normal(size=s.shape)).astype(np.float32), tree.shapes(config)
    )
    squash = "squash" if config.logit_bias else "shortest"
    preprocess = readers.standard_preprocess(config, squash)
    return weights.Weights(config, variables, preprocess, None, "clip_jax", "made")


@pytest.fixture(scope="session")
def made():
    """Makes random weights of a small model: "vit", "gelu", "resnet" or "siglip"."""
    return random_weights
