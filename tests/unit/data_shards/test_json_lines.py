"""A file of JSON lines loses what was cut off and what is not wanted, and nothing else."""

from data_shards.json_lines import keep_lines


def test_a_line_that_was_cut_off_and_unwanted_ones_are_removed(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert keep_lines(path, lambda record: record["step"] != 2) == [{"step": 1}, {"step": 3}]
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_file_of_which_nothing_goes_is_left_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "\u2028"}\n')
    before = path.stat().st_ino
    assert keep_lines(path, lambda record: True) == [{"text": "\u2028"}]
    assert path.stat().st_ino == before


def test_no_file_holds_no_records_and_none_is_made(tmp_path):
    assert keep_lines(tmp_path / "lines.jsonl", lambda record: True) == []
    assert not list(tmp_path.iterdir())
