"""abc layers become kernels or the dense form; same values; what is made of weights follows the live parameter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes._rule import apply_rules
from abcfx.passes.lower import LOWER, packed_shapes
from graphs import LEVELS, Net, aten_level, dynamo, run, targets, weight_tensors
from test_match_layers import Checkpointed
from test_rewrite_abc import rewritten
from torch import nn

from abcfx.graph import clone, dtype_of, value
from abcfx.ops.weight_cache import WeightRecipe, packed
from abcfx.plan import LayerPlan

pytestmark = pytest.mark.usefixtures("kernels")


def lowered_matches(captured, *, plan: LayerPlan | None = None, tolerance: float = 1e-5):
    """Rewrite, lower, compare with the graph before lowering; the lowered pipeline and what happened."""
    pipeline = captured.pipeline()
    added = rewritten(pipeline, plan=plan)
    before = clone(pipeline.gm)
    lowered = pipeline.lower()
    wanted = run(before, captured.inputs, *added)
    got = run(pipeline.gm, captured.inputs, *added, *weight_tensors(captured, lowered))
    assert got.dtype == wanted.dtype
    # f32 sums in another order, relative to the largest output
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max() + 1))
    return pipeline, lowered


@pytest.mark.parametrize("capture", [dynamo, aten_level], ids=["dynamo", "make_fx"])
@pytest.mark.parametrize("shape", [(5, 70), (2, 3, 70), (2, 1, 3, 70), (70,), (0, 70)], ids=str)
def test_linear_with_any_leading_dimensions(capture, shape: tuple) -> None:
    if capture is aten_level and len(shape) == 1:
        pytest.skip("make_fx makes a matrix-vector product of it")
    net = Net(lambda m, x: F.linear(x, m.w, m.b), w=(9, 70), b=(9,))
    x = torch.randn(shape)
    if x.numel() == 0:
        pipeline = capture(net, x).pipeline()
        rewritten(pipeline)
        pipeline.lower()
    else:
        pipeline, _ = lowered_matches(capture(net, x))
    ops = targets(pipeline.gm)
    assert "abc_k.linear.default" in ops
    assert not [op for op in ops if op.startswith("abc.")]


CONV = {
    "conv2d": (lambda m, x: F.conv2d(x, m.w, m.b, 2, 1), (10, 20, 3, 3), (2, 20, 9, 9)),
    "grouped": (lambda m, x: F.conv2d(x, m.w, m.b, groups=2), (10, 20, 3, 3), (2, 40, 6, 6)),
    "dilated": (lambda m, x: F.conv2d(x, m.w, m.b, dilation=2, padding=2), (10, 20, 3, 3), (1, 20, 6, 7)),
    "same even": (lambda m, x: F.conv2d(x, m.w, m.b, padding="same"), (10, 20, 4, 2), (1, 20, 6, 7)),
    "strided shortcut": (lambda m, x: F.conv2d(x, m.w, m.b, (2, 3)), (10, 20, 1, 1), (2, 20, 9, 8)),
    "strided shortcut 1d": (lambda m, x: F.conv1d(x, m.w, m.b, 2), (10, 20, 1), (2, 20, 9)),
    "conv1d": (lambda m, x: F.conv1d(x, m.w, m.b, 2, 1), (10, 20, 3), (2, 20, 9)),
    "no batch": (lambda m, x: F.conv2d(x, m.w, m.b), (10, 20, 3, 3), (20, 6, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CONV)
def test_convolutions_with_a_kernel(case: str) -> None:
    function, weight, shape = CONV[case]
    pipeline, lowered = lowered_matches(dynamo(Net(function, w=weight, b=(10,)), torch.randn(shape)))
    assert "abc_k.conv2d.default" in targets(pipeline.gm)
    assert lowered.kernels == ["w"]
    assert not lowered.reasons


def test_a_strided_shortcut_packs_only_what_it_reads() -> None:
    net = Net(lambda m, x: F.conv2d(x, m.w, None, 2), w=(10, 20, 1, 1))
    pipeline, _ = lowered_matches(dynamo(net, torch.randn(2, 20, 9, 8)))
    (pack,) = [node for node in pipeline.gm.graph.nodes if "pack_image" in str(node.target)]
    assert value(pack).shape == (2, 5, 2, 4, 1)


DENSE = {
    "few channels": (lambda m, x: F.conv2d(x, m.w), (8, 3, 3, 3), (1, 3, 6, 6), "3 channels per group"),
    "depthwise": (lambda m, x: F.conv2d(x, m.w, groups=32), (32, 1, 3, 3), (1, 32, 6, 6), "1 channels per group"),
    "conv3d": (lambda m, x: F.conv3d(x, m.w), (8, 16, 2, 2, 2), (1, 16, 3, 3, 3), "conv3d has no binary kernel"),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.w), (16, 8, 2, 2), (1, 16, 3, 3), "no binary kernel"),
}


@pytest.mark.parametrize("case", DENSE)
def test_layers_without_a_kernel_are_dense(case: str) -> None:
    function, weight, shape, reason = DENSE[case]
    pipeline, lowered = lowered_matches(dynamo(Net(function, w=weight), torch.randn(shape)))
    ops = targets(pipeline.gm)
    assert ops[-1] == "aten.convolution.default"
    assert not [op for op in ops if op.startswith("abc")], "something inductor cannot fuse"
    assert reason in lowered.reasons["w"]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("m", "n", "form"), [(1, 2, "xnor"), (5, 5, "dense")])
def test_the_cost_model_decides(m: int, n: int, form: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbolic sizes count as in the example, and the choice leaves no guard on them."""
    monkeypatch.delenv("ABCFX_FORM")
    captured = dynamo(Net(lambda m, x: F.linear(x, m.w), w=(512, 512)), torch.randn(192, 512), dynamic=dynamic)
    pipeline, lowered = lowered_matches(captured, plan=LayerPlan(m, n))
    choice = lowered.choices["w"]
    assert (choice.form, choice.measured) == (form, False)
    assert choice.ms.keys() >= {"xnor", "dense"}
    assert min(choice.ms, key=choice.ms.get) == form
    if form == "dense":
        assert "M·N = 25 is beyond the break-even" in lowered.reasons["w"]
    if dynamic:
        shape = value(pipeline.gm.graph.find_nodes(op="output")[0].args[0][0]).shape
        assert isinstance(shape[0], torch.SymInt)


@pytest.mark.parametrize(
    ("dtype", "op"),
    [
        (torch.bfloat16, "abc_k.linear.default"),
        (torch.float16, "abc_k.linear.default"),
        (torch.float64, "aten.linear.default"),
    ],
    ids=str,
)
def test_other_dtypes(dtype: torch.dtype, op: str) -> None:
    net = Net(lambda m, x: F.linear(x, m.w, m.b), w=(8, 64), b=(8,)).to(dtype)
    # bfloat16 results are rounded to 8 bits on both sides, float16 ones to 11
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    pipeline, _ = lowered_matches(dynamo(net, torch.randn(3, 64, dtype=dtype)), tolerance=tolerance)
    assert op in targets(pipeline.gm)
    packed = [node for node in pipeline.gm.graph.nodes if node.target == torch.ops.abc_k.pack_rows.default]
    assert all(dtype_of(node.args[0]) == dtype for node in packed), "a cast in front of a kernel that reads it"


def test_a_transposed_weight_is_replayed_on_the_live_one() -> None:
    captured = dynamo(Net(lambda m, x: torch.addmm(m.b, x, m.wt), wt=(64, 8), b=(8,)), torch.randn(3, 64))
    _, lowered = lowered_matches(captured)
    (made,) = lowered.inputs
    assert made.view.of(captured.live(made.view.base.name)).shape == (8, 64)


def test_weights_follow_the_live_parameter() -> None:
    net = Net(lambda m, x: F.linear(x, m.w), w=(8, 64))
    captured = dynamo(net, torch.randn(3, 64))
    _, lowered = lowered_matches(captured)
    before = weight_tensors(captured, lowered)
    assert all(a is b for a, b in zip(before, weight_tensors(captured, lowered), strict=True)), "packed needlessly"
    with torch.no_grad():
        net.w.mul_(-1)
    assert not torch.equal(before[0], weight_tensors(captured, lowered)[0]), "stale"


def test_tied_weights_are_packed_once() -> None:
    net = Net(lambda m, x: F.linear(F.linear(x, m.w), m.w), w=(64, 64))
    _, lowered = lowered_matches(dynamo(net, torch.randn(3, 64)))
    assert len(lowered.inputs) == 1
    assert lowered.kernels == ["w", "w#2"]


def test_a_computed_weight_is_quantized_in_the_graph() -> None:
    def function(net: Net, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.abc.linear(x, net.w * 2, None, net.scale, net.shift, *LayerPlan().op_arguments())

    net = Net(function, w=(8, 64), scale=(1,), shift=(1,))
    with torch.no_grad():
        net.scale.copy_(LEVELS[0])
    captured = dynamo(net, torch.randn(3, 64))
    pipeline, lowered = lowered_matches(captured)
    assert "abc.quantize_weight.default" in targets(pipeline.gm)
    assert not lowered.inputs
    assert "computed in the graph" in next(iter(lowered.reasons.values()))


def test_checkpoints_are_inlined() -> None:
    pipeline, lowered = lowered_matches(dynamo(Checkpointed(), torch.randn(2, 4)))
    assert "tag_activation_checkpoint" not in " ".join(targets(pipeline.gm))
    assert set(lowered.reasons) == {"inner", "outer"}


def test_dynamic_batch() -> None:
    net = Net(lambda m, x: F.linear(x, m.w), w=(8, 64))
    captured = dynamo(net, torch.randn(3, 5, 64), dynamic=True)
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    lowered = pipeline.lower()
    # the graph made for batch 3 runs on batch 7: symbolic sizes are inputs of Dynamo's graph, before the tensor
    values = [7 if v == 3 else v for v in captured.inputs if isinstance(v, (int, torch.SymInt))]
    rest = [v if v.dim() == 2 else torch.randn(7, 5, 64) for v in captured.inputs if isinstance(v, torch.Tensor)]
    symbols = iter(values)
    tensors = iter(rest)
    inputs = [next(tensors) if isinstance(v, torch.Tensor) else next(symbols) for v in captured.inputs]
    assert run(pipeline.gm, inputs, *added, *weight_tensors(captured, lowered)).shape == (7, 5, 8)


@pytest.mark.parametrize(
    ("function", "copies"),
    [
        (lambda m, x: F.relu(F.conv2d(x, m.w), inplace=True).mean((2, 3)), 0),
        (lambda m, x: F.max_pool2d(F.batch_norm(F.conv2d(x, m.w), m.v, m.v.abs()), 2).flatten(1), 0),
        (lambda m, x: F.conv2d(x, m.w).view(2, -1), 1),
        (lambda m, x: F.conv2d(x, m.w) * 2, 1),
    ],
    ids=["absorbed", "through batch norm", "view", "output"],
)
def test_strides_are_kept_where_they_matter(function, copies: int) -> None:
    captured = dynamo(Net(function, w=(16, 16, 3, 3), v=(16,)).requires_grad_(False), torch.randn(2, 16, 6, 6))
    pipeline, _ = lowered_matches(captured)
    assert targets(pipeline.gm).count("aten.clone.default") == copies


def test_a_dense_layer_takes_any_strides() -> None:
    """Its quantizer is elementwise: the kernel before it need not copy its output into another order."""
    net = Net(lambda m, x: F.conv2d(F.conv2d(x, m.w), m.u, groups=16).mean((2, 3)), w=(16, 16, 3, 3), u=(16, 1, 3, 3))
    pipeline, lowered = lowered_matches(dynamo(net.requires_grad_(False), torch.randn(2, 16, 8, 8)))
    assert (lowered.kernels, list(lowered.reasons)) == (["w"], ["u"])
    assert "aten.clone.default" not in targets(pipeline.gm)


def test_nothing_is_left_to_lower() -> None:
    pipeline, _ = lowered_matches(dynamo(nn.Sequential(nn.Linear(64, 8)), torch.randn(2, 64)))
    assert not apply_rules(pipeline.gm, LOWER).applied


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(9, 70, 3, 3), (30, 64, 1), (12, 130)], ids=str)
def test_promised_shapes_are_those_of_the_cache(shape: tuple, groups: int) -> None:
    groups = 1 if len(shape) == 2 else groups
    recipe = WeightRecipe(3, "greedy", True, False, groups)
    made = packed(torch.randn(shape), recipe)
    promised = packed_shapes(shape, recipe, torch.device("cpu"))
    assert {k: (tuple(v.shape), v.dtype) for k, v in made._asdict().items()} == promised
