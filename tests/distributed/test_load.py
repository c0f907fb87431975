"""Models on two ranks under ZeRO-3 that no rank holds whole: loading, errors, serving a frozen one, writing."""

import json
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_shards.write import write_shards
from models.blanks import drawn_vision, stored_vision, stored_vlm
from models.loading import ModelError, fill
from models.presets import vision_config, vlm_preset
from models.saving import save_model
from models.vision import TowerFeatures, patch_features
from models.vlm import build_vision, build_vlm, load_vision, load_vlm
from tests.helpers.dist import CPU_ZERO3, on_fresh_ranks, start_ranks, wait_ranks
from tests.helpers.forked import train
from tests.helpers.stages import driving_frames, write_recipe
from trainer import dist
from trainer.config import load_recipe
from trainer.dist import Ranks
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.engine_partition import Partition, whole_parameters
from trainer.stages import make_stage
from trainer.write_model import write_model

pytestmark = pytest.mark.distributed

LM_HEAD = "language_model.lm_head.weight"
MISFITS: dict[str, tuple[Callable[[dict], object], str]] = {
    "missing": (lambda state: state.pop(LM_HEAD), "missing: lm_head.weight"),
    "extra": (lambda state: state.update(surplus=torch.zeros(1)), "unexpected: surplus"),
    "misshapen": (lambda state: state.update({LM_HEAD: torch.zeros(3, 128)}), r"misshapen: .*got \(3, 128\)"),
}


def _config(**changes: object) -> dict:
    batch = {"train_batch_size": 2, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    config = load_ds_config(CPU_ZERO3) | batch | {"gradient_clipping": 1.0} | changes
    config.pop("optimizer")
    return config


def _weights_equal_the_file(ranks: Ranks, root: Path) -> None:
    partition = Partition(_config(bf16={"enabled": True}), ranks)
    vlm = fill(stored_vlm(root / "vlm"), torch.bfloat16, partition)
    expected = load_vlm(root / "vlm", torch.bfloat16)
    held = sum(parameter.ds_tensor.numel() for parameter in vlm.parameters())
    whole = sum(parameter.numel() for parameter in expected.parameters())
    assert whole / 2 <= held < 0.51 * whole
    for (name, value), (_, own) in zip(whole_parameters(vlm, ranks), expected.named_parameters(), strict=True):
        assert (value is not None) == ranks.is_main
        if value is not None:
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, own), name
    for (name, buffer), (_, own) in zip(vlm.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(buffer, own), name
        assert buffer.dtype == torch.float32


def _fresh_weights_equal_those_of_one_process(ranks: Ranks, root: Path) -> None:
    partition = Partition(_config(), ranks)
    config = vision_config("tiny-student")
    tower = fill(drawn_vision(config, torch.Generator().manual_seed(3)), torch.float32, partition)
    alone = build_vision(config, torch.Generator().manual_seed(3))
    for (name, value), (_, own) in zip(whole_parameters(tower, ranks), alone.named_parameters(), strict=True):
        assert (value is not None) == ranks.is_main
        assert value is None or torch.equal(value, own), name


def _served_tower_computes_what_the_whole_one_does(ranks: Ranks, root: Path) -> None:
    partition = Partition(_config(), ranks)
    tower = fill(stored_vision(root / "tower"), torch.float32, partition)
    forward = partition.serve(TowerFeatures(tower))
    reference = load_vision(root / "tower")
    for seed in (1, 2):
        pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(seed + 10 * ranks.rank))
        with torch.no_grad():
            expected = patch_features(reference, pixels, 2)
        for one, other in zip(forward(pixels, 2), expected, strict=True):
            assert torch.equal(one, other)
            assert not one.requires_grad
    assert sum(parameter.numel() for parameter in tower.parameters()) == 0
    assert not tower.training


def _keys_that_do_not_fit_are_refused(ranks: Ranks, root: Path) -> None:
    for kind, (_, message) in MISFITS.items():
        with pytest.raises(ModelError, match=message):
            fill(stored_vlm(root / kind), torch.float32, Partition(_config(), ranks))


def _file_that_vanishes_is_an_error_on_all_ranks(ranks: Ranks, root: Path) -> None:
    blank = stored_vision(root / "vanishing")
    ranks.barrier()
    ranks.on_main((root / "vanishing" / "model.safetensors").unlink)
    with pytest.raises(ModelError if ranks.is_main else dist.MainRankError, match="cannot be read"):
        fill(blank, torch.float32, Partition(_config(), ranks))


def _written_model_is_that_of_one_process(ranks: Ranks, root: Path) -> None:
    recipe, _ = load_recipe(root / "align.yaml")
    config = resolve(load_ds_config(CPU_ZERO3), recipe, world_size=2, config_path=CPU_ZERO3, recipe_path=root)
    stage = make_stage(recipe, torch.float32, loaded=False)
    groups = stage.parameter_groups()
    assert all(parameter.is_meta for parameter in stage.model.parameters())
    stage.load(Partition(config, ranks))
    Engine(stage.model, groups, config)
    write_model(stage.exported(), ranks, root / "written", stage.save_extras)
    alone = make_stage(recipe, torch.float32)
    ranks.on_main(lambda: save_model(alone.exported(), root / "alone"))
    ranks.on_main(lambda: _compare(root / "written", root / "alone"))


def _compare(written: Path, alone: Path) -> None:
    parts, whole = load_file(written / "model.safetensors"), load_file(alone / "model.safetensors")
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert (written / "config.json").read_text() == (alone / "config.json").read_text()
    assert (written / "tokenizer.json").is_file()
    assert not list(written.parent.glob("*.partial"))


CHECKS = (
    _weights_equal_the_file,
    _fresh_weights_equal_those_of_one_process,
    _served_tower_computes_what_the_whole_one_does,
    _keys_that_do_not_fit_are_refused,
    _file_that_vanishes_is_an_error_on_all_ranks,
    _written_model_is_that_of_one_process,
)


def _run_checks(ranks: Ranks, root: Path) -> None:
    for check in CHECKS:
        try:
            check(ranks, root)
            result = "passed"
        except Exception:
            result = traceback.format_exc()
        (root / f"{check.__name__}.{ranks.rank}").write_text(result)


@pytest.fixture(scope="module")
def checked(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair of processes runs all checks, since starting them costs more than the checks; results are in files."""
    root = tmp_path_factory.mktemp("load")
    generator = torch.Generator().manual_seed(5)
    save_model(build_vision(vision_config("tiny-teacher"), generator).bfloat16(), root / "tower")
    vlm = build_vlm(vlm_preset("tiny-vlm", vocab_size=64, image_token_id=60), generator).bfloat16()
    save_model(vlm, root / "vlm")
    shutil.copytree(root / "tower", root / "vanishing")
    for kind, (change, _) in MISFITS.items():
        shutil.copytree(root / "vlm", root / kind)
        state = load_file(root / kind / "model.safetensors")
        change(state)
        save_file(state, root / kind / "model.safetensors", metadata={"format": "pt"})
    recipe = write_recipe(world, "align", root / "run", model={"projector": "linear", "vision": "tiny-student"})
    recipe.rename(root / "align.yaml")
    on_fresh_ranks(_run_checks, root)
    return root


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_under_zero3(checked, check):
    for rank in range(2):
        result = (checked / f"{check}.{rank}").read_text()
        assert result == "passed", f"rank {rank}: {result}"


def test_partitioned_teacher_teaches_and_other_weights_of_it_are_refused_on_resume(world):
    run_dir = world / "partitioned-teacher"
    settings = {"teacher_placement": "partition", "codebook_size": 32, "codebook_tiles": 26, "last_k": 2}
    recipe = write_recipe(world, "distill", run_dir, steps=2, distill=settings)
    train(["--recipe", str(recipe)])
    record = json.loads((run_dir / "inputs.json").read_text())
    assert record["model.teacher"]["files"] == ["model.safetensors"]

    (run_dir / "summary.json").unlink()
    file = world / "teacher" / "model.safetensors"
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        statuses, output = wait_ranks(start_ranks(["--recipe", str(recipe)]))
    finally:
        file.write_bytes(before)
    assert statuses[0] == 2, output
    assert 0 not in statuses
    assert f"model.teacher: begun with {world / 'teacher'} of sha256" in output


def test_a_run_is_not_continued_on_other_data(world):
    run_dir, shards = world / "other-data", world / "replaced"
    write_shards(driving_frames(6, 11), shards, source="test", licence="none")
    data = {"datasets": [{"path": str(shards), "name": "driving"}]}
    recipe = write_recipe(world, "align", run_dir, steps=1, data=data)
    train(["--recipe", str(recipe)])
    (run_dir / "summary.json").unlink()
    shutil.rmtree(shards)
    write_shards(driving_frames(6, 12), shards, source="test", licence="none")
    statuses, output = wait_ranks(start_ranks(["--recipe", str(recipe)]))
    assert statuses[0] == 2, output
    assert 0 not in statuses
    assert f"data.datasets.driving: begun with {shards} of sha256" in output
