"""What a job asks for: built-in values, then the site's, then the command line's."""

import argparse
import dataclasses

import pytest

from slurm.resources import DEFAULTS, Resources, add_options, from_options, load_site, minutes
from slurm.typed import SlurmError
from tests.helpers.paths import ROOT


def parsed(*arguments: str) -> Resources:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return from_options(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("time", "expected"),
    [("5", 5), ("90:30", 91), ("1:30:00", 90), ("2-0", 2880), ("1-2:30", 1590), ("1-00:00:01", 1441)],
)
def test_times_are_read_as_sbatch_reads_them(time, expected):
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["", "1h", "0", "00:00", "1:2:3:4"])
def test_other_times_are_refused(time):
    with pytest.raises(SlurmError, match="time: got"):
        minutes(time)


def test_the_command_line_wins_over_the_site_and_the_site_over_the_defaults(tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text("partition: gpu\nnodes: 4\nsetup: modules.sh\nenvironment: {A: 1, B: true}\n")
    asked = parsed("--nodes", "2", "--environment", "B=x=y").over(load_site(site))
    assert (asked.nodes, asked.partition, asked.max_crashes) == (2, "gpu", DEFAULTS.max_crashes)
    assert asked.environment == {"A": "1", "B": "x=y"}
    assert asked.setup == tmp_path / "modules.sh"


def test_the_site_file_may_be_named_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "site.yaml").write_text("qos: low\n")
    monkeypatch.setenv("DRIVLM_SITE", str(tmp_path / "site.yaml"))
    assert load_site(None).qos == "low"
    monkeypatch.delenv("DRIVLM_SITE")
    assert load_site(None) == DEFAULTS


def test_the_example_site_file_is_a_good_one():
    site = load_site(ROOT / "slurm" / "site.example.yaml")
    assert site.partition == "gpu"
    assert site.environment == {"NCCL_SOCKET_IFNAME": "ib0"}


def test_unknown_fields_and_bad_values_of_a_site_are_refused_together(tmp_path):
    (tmp_path / "site.yaml").write_text("partitions: gpu\n")
    with pytest.raises(SlurmError, match="did you mean 'partition'"):
        load_site(tmp_path / "site.yaml")
    (tmp_path / "site.yaml").write_text("nodes: 0\ndevice: tpu\n")
    with pytest.raises(SlurmError, match=r"(?s)nodes: got 0.*device: got 'tpu'"):
        load_site(tmp_path / "site.yaml")


def test_every_field_has_an_option_and_an_environment_needs_its_equals_sign():
    assert {field.name for field in dataclasses.fields(DEFAULTS)} == set(vars(parsed()))
    with pytest.raises(SlurmError, match="expected NAME=VALUE"):
        parsed("--sbatch", "mail-type")


@pytest.mark.parametrize("name", ["A B", "", "1A", "A;x"])
def test_a_variable_that_bash_cannot_name_is_refused(name):
    with pytest.raises(SlurmError, match="environment: got the name"):
        Resources(environment={name: "1"})


@pytest.mark.parametrize("name", ["signal", "no-requeue", "nodes", "gpus-per-node", "--mail-type", "mail_type", "C"])
def test_options_of_sbatch_that_would_undo_others_are_refused(name):
    with pytest.raises(SlurmError, match=f"sbatch: got '{name}'"):
        Resources(sbatch={name: "x"})
    assert Resources(sbatch={"mail-type": "END", "mem": "0", "gres": "tmp:1"}).sbatch


def test_a_time_that_yaml_reads_as_a_number_asks_for_quotes(tmp_path):
    (tmp_path / "site.yaml").write_text("time: 10:00:00\n")
    with pytest.raises(SlurmError, match=r"time: got 36000, expected text \(put it into quotes\)"):
        load_site(tmp_path / "site.yaml")


def test_a_variable_of_another_is_not_left_as_it_is():
    with pytest.raises(SlurmError, match=r"environment: HF_HOME: got '\$SCRATCH/hf', which stays as it is"):
        Resources(environment={"HF_HOME": "$SCRATCH/hf"})
    assert Resources(environment={"PRICE": "5$"}).environment
