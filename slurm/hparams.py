"""Swept values in, TensorBoard's hparams records out, beside the curves of each point; needs no torch."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write_experiment(directory: Path, values: Mapping[str, Sequence[str]], metric: str) -> None:
    """What is swept and which curve matters, for the whole sweep."""
    hparams = [
        summary_v2.HParam(name, summary_v2.Discrete(list(dict.fromkeys(map(plain_value, texts)))))
        for name, texts in values.items()
        if len({type(plain_value(text)) for text in texts}) == 1
    ]
    _write(directory, summary_v2.hparams_config_pb(hparams=hparams, metrics=[summary_v2.Metric(metric)]), ".experiment")


def write_start(directory: Path, values: Mapping[str, str], name: str) -> None:
    """The values of one point."""
    plain = {key: plain_value(text) for key, text in values.items()}
    _write(directory, summary_v2.hparams_pb(plain, trial_id=name), ".hparams")


def write_end(directory: Path, *, succeeded: bool) -> None:
    """That a point has ended, and how."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    summary = Summary()
    summary.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data))
    _write(directory, summary, ".hparams-end")


def plain_value(text: str) -> str | float | bool:
    """A value as hparams know it: true, a number or text."""
    value = yaml.safe_load(text)
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return text


def _write(directory: Path, summary: Summary, suffix: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(directory), filename_suffix=suffix)
    writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    writer.close()
