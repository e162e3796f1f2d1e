"""Against PyTorch, where it is installed: it reads what we write, and we what it writes."""

import collections

import ml_dtypes
import numpy as np
import pytest

from clip_jax.interop.torch import weight_file

torch = pytest.importorskip("torch", reason="needs pip install '.[reference]'")
pytestmark = pytest.mark.reference
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


def to_numpy(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, x in found.items():
        other = to_numpy(expected[name])
        assert x.shape == other.shape and x.dtype == other.dtype, name
        assert x.tobytes() == other.tobytes(), name


@pytest.fixture
def state():
    torch.manual_seed(0)
    base = torch.arange(100.0).reshape(10, 10)
    tensors = collections.OrderedDict(
        transposed=base.t(), part=base[2:9:3, 1::4], row=base[3],
        repeated=torch.ones(1).expand(3, 4), positions=torch.arange(77).expand((1, -1)),
        parameter=torch.nn.Parameter(base),
        channels_last=torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    )  # fmt: skip
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        tensors[f"{name}.weight"] = (torch.rand(3, 5) * 100).to(dtype)
        tensors[f"{name}.scalar"] = torch.tensor(1).to(dtype)
        tensors[f"{name}.empty"] = torch.zeros(0, 4, dtype=dtype)
    return tensors


@pytest.mark.parametrize(
    "options",
    [{}, {"pickle_protocol": 4}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}],
    ids=str,
)
def test_we_read_what_torch_saves(state, tmp_path, options):
    torch.save(state, tmp_path / "a.pt", **options)
    assert_equal(weight_file.read(tmp_path / "a.pt"), state)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_we_read_training_checkpoints(tmp_path, options):
    model = torch.nn.DataParallel(
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    )
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 1,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loss": np.float32(2),
        "array": np.arange(3),
        "rng": torch.get_rng_state(),
    }
    torch.save(checkpoint, tmp_path / "a.pt", **options)
    assert_equal(weight_file.read(tmp_path / "a.pt"), model.module.state_dict())


@pytest.mark.parametrize("options", [{}, {"mmap": True}], ids=str)
def test_torch_reads_what_we_write(state, tmp_path, options):
    tensors = {name: to_numpy(x) for name, x in state.items()}
    weight_file.write(tmp_path / "a.pt", tensors)
    found = torch.load(tmp_path / "a.pt", weights_only=True, **options)
    assert type(found) is collections.OrderedDict
    assert_equal(tensors, found)


@pytest.mark.filterwarnings("ignore")  # PyTorch would rather have torch.export
def test_we_read_torchscript(tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.BatchNorm1d(4))
            self.register_buffer("input_resolution", torch.tensor(224))
            self.sizes = [1, 2]

        def forward(self, x):
            return self.blocks[1](x @ self.blocks[0].weight.float().T) + torch.ones(4)

    model = Model().eval()
    for script in (torch.jit.script(model), torch.jit.trace(model, torch.rand(2, 3))):
        torch.jit.save(script, tmp_path / "a.pt")
        assert_equal(weight_file.read(tmp_path / "a.pt"), script.state_dict())
