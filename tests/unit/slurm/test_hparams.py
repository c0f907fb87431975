"""hparams records, read back with TensorBoard's own reader."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from slurm.hparams import plain_value, write_end, write_experiment, write_start


def read(directory, tag):
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return plugin_data_pb2.HParamsPluginData.FromString(accumulator.summary_metadata[tag].plugin_data.content)


def test_a_point_has_its_values_and_its_end(tmp_path):
    write_start(tmp_path, {"optim.lr": "1e-3", "model.projector": "mlp", "optim.x": "true"}, "000")
    write_end(tmp_path, succeeded=False)
    values = read(tmp_path, "_hparams_/session_start_info").session_start_info.hparams
    assert values["optim.lr"].number_value == 1e-3
    assert values["model.projector"].string_value == "mlp"
    assert values["optim.x"].bool_value is True
    assert read(tmp_path, "_hparams_/session_end_info").session_end_info.status == api_pb2.STATUS_FAILURE


def test_the_sweep_names_its_values_and_its_curve(tmp_path):
    write_experiment(tmp_path, {"optim.lr": ["1e-3", "1e-4"]}, "loss/total")
    experiment = read(tmp_path, "_hparams_/experiment").experiment
    assert [info.name for info in experiment.hparam_infos] == ["optim.lr"]
    assert experiment.metric_infos[0].name.tag == "loss/total"


def test_texts_become_plain_values():
    assert [plain_value(text) for text in ("1", "1e-3", "true", "mlp", "null")] == [1.0, 1e-3, True, "mlp", "null"]
