"""The study of distillation with its commands replaced: what it would run, and that it goes on where it stopped."""

import json
from pathlib import Path

import pytest

from benchmarks import distillation_study as study
from benchmarks.students import ONE_RANK
from models.vlm import load_vision
from tests.helpers.paths import ROOT
from trainer.config import load_recipe


class Commands:
    """Stands for the stages and commands of a study; recipes are read as the trainer would, scores depend on names."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str, object]] = []
        self.commands: list[tuple[str, ...]] = []
        self.teachers: list[str] = []

    def train(self, stage: str, run_dir: Path, settings: list[str]) -> Path:
        overrides = [f"run_dir={run_dir}", *ONE_RANK[stage], *settings]
        recipe, _ = load_recipe(ROOT / "trainer" / "recipes" / f"demo_{stage}.yaml", overrides)
        self.stages.append((stage, run_dir.parent.name, recipe))
        return run_dir / "model"

    def answer(self, model: Path, shards: Path, out: Path) -> Path:
        self.commands.append(("predict", str(model)))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(str(model))
        return out

    def execute(self, arguments: list[str], log: Path) -> None:
        self.commands.append(tuple(arguments))
        load_recipe(ROOT / arguments[arguments.index("--recipe") + 1], [word for word in arguments if "=" in word])

    def score(self, references: object, answers: str, judge: object) -> float:
        return 0.5 if "undistilled" in answers else 0.6


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(study, "make_world", lambda data, **sizes: None)
    monkeypatch.setattr(study, "make_labelled", lambda data, scenes, **seed: data / f"labelled-{scenes}")
    for name in ("train", "answer", "execute", "score"):
        monkeypatch.setattr(study, name, getattr(made, name))
    monkeypatch.setattr(study, "columns", lambda accuracy: dict.fromkeys(("accuracy", "object_f1", "bleu_4"), accuracy))
    monkeypatch.setattr(study, "read_references", lambda path: [])
    monkeypatch.setattr(study, "read_submission", lambda path: path.read_text())
    monkeypatch.setattr(study, "_teacher", lambda own, name: made.teachers.append(name))
    monkeypatch.chdir(tmp_path)
    return made


def run(tmp_path: Path, *more: str) -> int:
    return study.main(["--work-dir", str(tmp_path / "work"), "--out", str(tmp_path / "out.json"), *more])


def test_every_variant_makes_recipes_that_the_trainer_takes(tmp_path, commands, capsys):
    assert run(tmp_path) == 0
    scores = json.loads((tmp_path / "out.json").read_text())["scores"]
    assert set(scores) == {*study.MAIN, *study.ABLATIONS}
    assert [len(scores[name]) for name in study.MAIN] == [3, 3, 3]
    assert {len(scores[name]) for name in study.ABLATIONS} == {1}
    distilled = {home: recipe for stage, home, recipe in commands.stages if stage == "distill"}
    assert distilled["cached-k=8"].distill.top_k == 8
    assert distilled["cached-k=8"].data.datasets[1].targets.name == "general"
    assert distilled["answer_logits"].distill.answer_logits == 1
    assert not distilled["answer_logits"].distill.features
    assert distilled["teacher-small"].model.teacher.endswith("teacher-small")
    assert not any("undistilled" in home for home in distilled)
    assert "| distilled | 0.600 |" in capsys.readouterr().out


def test_the_longer_student_takes_as_many_steps_as_the_distilled_one(tmp_path, commands):
    run(tmp_path, "--seeds", "1", "--variants", "distilled,undistilled longer")
    steps: dict[str, int] = {}
    for _, home, recipe in commands.stages:
        steps[home] = steps.get(home, 0) + recipe.steps
    assert steps["distilled"] == steps["undistilled-longer"] > 0


def test_few_labelled_scenes_are_for_stages_1_and_2_alone(tmp_path, commands):
    run(tmp_path, "--seeds", "1", "--variants", "distilled", "--labelled-scenes", "7")
    driving = {
        stage: recipe.data.datasets[0].path.relative_to(tmp_path / "work") for stage, _, recipe in commands.stages
    }
    few = Path("data/labelled-7")
    assert driving == {"distill": Path("data/driving/train"), "align": few, "finetune": few}


def test_students_of_a_seed_share_it_and_those_of_others_do_not(tmp_path, commands):
    run(tmp_path, "--seeds", "2", "--variants", "distilled,undistilled")
    seeds: dict[str, set[int]] = {}
    for _, _, recipe in commands.stages:
        seeds.setdefault(recipe.run_dir.parents[1].name, set()).add(recipe.seed)
    assert seeds == {"seed-0": {0}, "seed-1": {1}}


def test_teachers_and_targets_are_made_once_before_their_students(tmp_path, commands):
    run(tmp_path, "--seeds", "1", "--ablation-seeds", "2", "--variants", "cached k=8,teacher small")
    assert commands.teachers == ["small"]
    made = [command for command in commands.commands if "teacher-targets" in command]
    assert ["--fit-codebook" in command for command in made] == [True, False]
    assert commands.commands[:2] == made


def test_what_is_done_is_not_done_again(tmp_path, commands):
    run(tmp_path, "--seeds", "1", "--variants", "distilled")
    before = len(commands.stages), len(commands.commands)
    assert run(tmp_path, "--seeds", "1", "--variants", "distilled") == 0
    assert (len(commands.stages), len(commands.commands)) == before
    (tmp_path / "work" / "seed-0" / "distilled" / "scores.json").unlink()
    run(tmp_path, "--seeds", "1", "--variants", "distilled")
    assert len(commands.commands) == before[1] + 1


def test_a_seed_without_gain_ends_with_failure(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(commands, "score", lambda references, answers, judge: 0.5)
    monkeypatch.setattr(study, "score", commands.score)
    assert run(tmp_path, "--seeds", "1", "--variants", "distilled,undistilled") == 1


def test_teachers_of_three_sizes_see_the_tiles_of_the_world(tmp_path):
    steps = {"distill_steps": 1, "align_steps": 1, "finetune_steps": 1, "teacher_steps": 1}
    sizes = study.Study(work=tmp_path, scenes=2, labelled=tmp_path, **steps)
    towers = {name: load_vision(study._teacher(sizes, name)) for name in study.TEACHERS}
    assert [tower.config.hidden_size for tower in towers.values()] == [64, 96, 160]
    assert {tuple(tower.config.image_size) for tower in towers.values()} == {(112, 112)}
    counts = [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers.values()]
    assert counts == sorted(counts)
