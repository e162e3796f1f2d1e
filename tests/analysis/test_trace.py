"""Time by kind of kernel."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.analysis import trace
from clip_jax.analysis.trace import Span


@pytest.mark.parametrize("name, kind", [
    ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n custom-call.3", "products"),
    ("nvjet_tst_128x256_64x4_2x1_v_bz_TNT cublas-gemm.12", "products"),
    ("dot.7 dot.7", "products"), ("ynn_fusion.1 ynn_fusion.1", "products"),
    ("convolution.2 convolution.2", "products"),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop cudnn-fmha.1", "attention"),
    ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL all-reduce-start.2", "collectives"),
    ("all_gather.1 all-gather.1", "collectives"),
    ("collective-permute.4 collective-permute.4", "collectives"),
    ("loop_transpose_fusion_3 loop_transpose_fusion.3", "copies"),
    ("MemcpyD2D copy.5", "copies"), ("wrapped_dynamic-update-slice x", "copies"),
    ("input_reduce_fusion_2 input_reduce_fusion.2", "reductions"),
    ("loop_convert_fusion loop_convert_fusion", trace.REST),
    ("wrapped_tanh wrapped_tanh", trace.REST),
])  # fmt: skip
def test_kinds_by_names_of_kernels(name, kind):
    assert trace.kind_of(name) == kind


def test_what_contains_others_counts_with_its_own():
    spans = [
        Span("while", 0, 100),
        Span("dot", 10, 40),
        Span("copy", 50, 60),
        Span("dot", 100, 130),
    ]
    assert sorted(trace.own_times(spans)) == [("copy", 10), ("dot", 30), ("dot", 30), ("while", 60)]


@given(st.recursive(st.integers(1, 5), lambda inner: st.lists(inner, min_size=1, max_size=4)))
def test_own_times_add_up_to_the_whole(tree):
    spans = []

    def lay(node, start):
        """A leaf takes its number; a list takes what is in it, and 1 before each."""
        if isinstance(node, int):
            end = start + node
        else:
            end = start
            for child in node:
                end = lay(child, end + 1)
        spans.append(Span("x", start, end))
        return end

    whole = lay(tree, 0)
    assert sum(own for _, own in trace.own_times(spans)) == whole
    assert min(own for _, own in trace.own_times(spans)) >= 0


def test_a_trace_of_products_is_mostly_products(tmp_path):
    product = jax.jit(lambda a: a @ a)
    a = jnp.ones((400, 400))
    product(a).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(5):
            product(a).block_until_ready()
    seconds = trace.time_by_kind(tmp_path)
    assert seconds["products"] > 0.8 * sum(seconds.values())


def test_no_trace_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no"):
        trace.time_by_kind(tmp_path)
