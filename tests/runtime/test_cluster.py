"""How processes find each other: what is looked at, and that nothing there makes a run wait."""

import http.server
import threading
import time

import jax
import pytest

from clip_jax.runtime import cluster, distributed


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with TPU chips and libtpu, and nobody at the address of the metadata server."""
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(cluster, "CHIPS", (f"{tmp_path}/none[0-9]*", f"{tmp_path}/accel[0-9]*"))
    return {"TPU_LIBRARY_PATH": "libtpu.so", "GCE_METADATA_IP": "127.0.0.1:9"}


@pytest.fixture
def calls(monkeypatch):
    """The arguments of the calls of jax.distributed.initialize, which does nothing."""
    made = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: made.append(k))
    return made


@pytest.fixture
def metadata():
    """A metadata server with these attributes; yields its address."""
    attributes = {"agent-worker-number": "0"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            known = self.headers["Metadata-Flavor"] == "Google" and name in attributes
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.attributes = attributes
    yield server
    server.shutdown()
    server.server_close()


def test_explicit_addresses_must_be_complete():
    with pytest.raises(ValueError, match="CLIP_JAX_COORDINATOR is set, but not CLIP_JAX_PROCESSES"):
        distributed.initialize({"CLIP_JAX_COORDINATOR": "localhost:1"})


def test_explicit_addresses_are_passed_on(calls, capsys):
    distributed.initialize(
        {"CLIP_JAX_COORDINATOR": "a:1", "CLIP_JAX_PROCESSES": "4", "CLIP_JAX_PROCESS_ID": "2"}
    )
    assert len(calls) == 1
    assert calls[0]["coordinator_address"] == "a:1"
    assert (calls[0]["num_processes"], calls[0]["process_id"]) == (4, 2)
    assert "process 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env", "join"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_launchers_are_recognised(calls, env, join):
    distributed.initialize(env)
    assert len(calls) == join
    if join:
        assert "coordinator_address" not in calls[0]


def test_a_tpu_vm_is_recognised_by_its_metadata_server(machine, metadata, calls, capsys):
    machine["GCE_METADATA_IP"] = f"127.0.0.1:{metadata.server_port}"
    distributed.initialize(machine)
    assert len(calls) == 1
    assert "joining the run: a TPU VM, by its metadata server" in capsys.readouterr().out


def test_a_metadata_server_that_knows_no_tpu(machine, metadata, calls, capsys):
    metadata.attributes.clear()
    machine["GCE_METADATA_IP"] = f"127.0.0.1:{metadata.server_port}"
    distributed.initialize(machine)
    assert calls == []
    assert "one process: TPU chips, but no metadata server knows them" in capsys.readouterr().out


def test_chips_without_a_metadata_server(machine, calls, capsys):
    distributed.initialize(machine)
    assert calls == []
    assert "one process: TPU chips, but no metadata server" in capsys.readouterr().out


def test_a_metadata_server_that_never_answers_is_given_up(machine, calls, monkeypatch):
    monkeypatch.setattr(cluster, "METADATA_SECONDS", 0.3)
    monkeypatch.setattr(cluster, "_get", lambda url: time.sleep(20))
    started = time.time()
    distributed.initialize(machine)
    assert time.time() - started < 5
    assert calls == []


@pytest.mark.parametrize(
    "change",
    [{"JAX_PLATFORMS": "cpu"}, {"TPU_SKIP_MDS_QUERY": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}],
    ids=str,
)
def test_the_metadata_server_is_left_alone_where_it_has_no_say(machine, calls, monkeypatch, change):
    monkeypatch.setattr(cluster, "_get", lambda url: pytest.fail("asked"))
    distributed.initialize(machine | change)
    assert calls == []


def test_no_chips_or_no_libtpu_is_no_tpu(machine, monkeypatch):
    assert cluster._tpu_here(machine)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    assert not cluster._tpu_here({})
    monkeypatch.setattr(cluster, "CHIPS", ())
    assert not cluster._tpu_here(machine)


def test_what_jax_cannot_join_is_one_clear_error(monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match=r"2 host.*TPU_WORKER_HOSTNAMES.*set CLIP_JAX_COORD"):
        distributed.initialize({"TPU_WORKER_HOSTNAMES": "a,b"})
