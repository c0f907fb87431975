"""FLOPs of training packs against those that torch counts in forward and backward passes of the three stages."""

from itertools import islice

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from data_shards.collate import to_tensors
from data_shards.pack import filler_pack
from models.attention import pack_layout
from models.flops import forward_flops
from tests.helpers.stages import make_world, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.stages import make_stage
from trainer.stages.base import Preparation
from trainer.utilisation import computed_pairs, peak_flops, visible_pairs


class _Alone:
    """Stands for `Ranks` of a world of one."""

    def on_main(self, act):
        return act()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), frames=4)


def _sdpa_forward(query, key, value, *args, out_shape=None, **kwargs):
    return sdpa_flop_count(query, key, value)


def _sdpa_backward(grad, query, key, value, *args, out_shape=None, **kwargs):
    return sdpa_backward_flop_count(grad, query, key, value)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
}
"""torch knows the formulas of its CUDA kernels only."""


def make(world, tmp_path, name, **model):
    recipe, _ = load_recipe(write_recipe(world, "align" if name == "finetune" else name, tmp_path / name, model=model))
    stage = make_stage(recipe, torch.float32)
    if name == "finetune":
        stage.model.requires_grad_(True)
        stage._shares = (1.0, 1.0, 1.0)
    data = make_data(recipe, stage.text, None)
    (tmp_path / name).mkdir(exist_ok=True)
    stage.prepare(
        Preparation(
            ranks=_Alone(), device=torch.device("cpu"), run_dir=tmp_path / name, first_batches=data.first_batches
        )
    )
    return stage, data


def counted(stage, batch):
    stage.model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        out = stage.loss(stage.model, batch, torch.device("cpu"))
        out.total.backward()
    return out.flops, counter.get_total_flops()


@pytest.mark.parametrize("name", ["distill", "align", "finetune"])
def test_flops_of_a_step_are_those_that_torch_counts(world, tmp_path, name):
    stage, data = make(world, tmp_path, name)
    for batch in islice(data.first_batches(), 3):
        flops, expected = counted(stage, batch)
        assert flops.hardware == pytest.approx(expected, rel=0.01)
        assert 0.5 * flops.hardware < flops.useful < flops.hardware


def test_packs_are_balanced_by_what_they_make_the_model_compute(world, tmp_path):
    stage, data = make(world, tmp_path, "align")
    cost, head = stage.cost(), forward_flops(stage.vlm.config).label
    for batch in islice(data.first_batches(), 3):
        useful = stage.loss(stage.model, batch, torch.device("cpu")).flops.useful
        pairs = visible_pairs(pack_layout(batch.groups, batch.segment_ids))
        modelled = cost.token * len(batch.input_ids) + cost.tile * batch.meta.num_tiles + cost.pair * pairs
        labels = 2 * len(batch.label_targets) * head
        assert modelled == pytest.approx(useful - labels, rel=0.02)


@pytest.mark.parametrize("name", ["distill", "finetune"])
def test_layers_that_run_again_count_as_hardware_alone(world, tmp_path, name):
    stage, data = make(world, tmp_path, name)
    batch = next(data.first_batches())
    before = stage.loss(stage.model, batch, torch.device("cpu")).flops
    layers = {"vision": "all"} if name == "distill" else {"vision": "all", "language": 1}
    again, _ = make(world, tmp_path, name, checkpointing=layers)
    again.model.train()
    flops, expected = counted(again, batch)
    assert flops.useful == before.useful
    assert flops.hardware > 1.05 * before.hardware
    assert flops.hardware == pytest.approx(expected, rel=0.01)


def test_a_dummy_tile_is_of_no_use(world, tmp_path):
    stage, _ = make(world, tmp_path, "distill")
    flops, expected = counted(stage, to_tensors(filler_pack(112, None)))
    assert flops.useful == 0
    assert flops.hardware == pytest.approx(expected, rel=0.01)


def test_pairs_are_those_of_the_mask():
    segments = torch.tensor([0, 0, 0, 1, 1, 2, 0, 0, 1])
    layout = pack_layout([(0, 6), (6, 9)], segments)
    visible = 0
    for start, end in layout.groups:
        for query in range(start, end):
            for key in range(start, query + 1):
                visible += int(segments[key] in (0, segments[query]))
    assert visible_pairs(layout) == visible
    assert computed_pairs(layout) == 9 + 3 * 6 + 4 + 1 * 3


def test_peaks_are_found_by_the_longest_name_and_the_recipes_own_comes_first():
    assert peak_flops("NVIDIA H100 80GB HBM3", 0) == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", 0) == 756e12
    assert peak_flops("NVIDIA L40S", 0) == 362e12
    assert peak_flops("NVIDIA H100 80GB HBM3", 400) == 400e12
    assert peak_flops("cpu", 0) is None
