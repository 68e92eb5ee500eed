"""`steerlm prepare` and `steerlm export-nemo` on the command line: what they take and what they tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.conversation import read_conversations


def say(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_table_with_columns_of_its_own_is_prepared_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"Hi {i},Hello {i},smith,{i % 5}\n" for i in range(30))
    (tmp_path / "a.csv").write_text(f"player,reply,npc,funny\n{rows}Bye,So long,,\n")
    columns = "prompt=player,response=reply,system=npc,rating.humor=funny"
    argv = ["prepare", "--source", f"table:{tmp_path / 'a.csv'}", "--attributes", "oasst", "--out", str(tmp_path / "o")]
    assert main([*argv, "--columns", columns, "--show", "3"]) == 0
    shown = say(capsys)
    assert shown.count("⟦") == 3
    assert "<|user|>Hi " in shown
    assert "of quality, toxicity, humor, creativity the headers hold people's ratings so far" in shown
    first = next(read_conversations(tmp_path / "o" / "train.jsonl"))
    assert [m.role for m in first.messages] == ["system", "user", "assistant"]
    assert main([*argv, "--columns", columns.replace("funny", "fun")]) == 2
    assert "there is no column 'fun': did you mean 'funny'" in " ".join(capsys.readouterr().err.split())


def test_what_was_left_out_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "x"}]
    rows = [{"id": str(i), "messages": [{**said[0], "content": f"q{i}"}, said[1]]} for i in range(3)]
    lines = [*rows, rows[0], {"id": "bad", "messages": []}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = str(tmp_path / "o")
    source = f"messages:{tmp_path / 'a.jsonl'}"
    assert main(["prepare", "--source", source, "--attributes", "oasst", "--skip-bad-records", "--out", out]) == 0
    told = say(capsys)
    for piece in ("the conversation has no messages", "duplicates", "message key name"):
        assert piece in told


def test_export_nemo_tells_what_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [{"role": "user", "content": "<extra_id_1>User"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "x", "messages": said}) + "\n")
    assert main(["export-nemo", str(tmp_path / "a.jsonl"), str(tmp_path / "n.jsonl")]) == 0
    assert "markers of the format in texts, written with a space: 1" in say(capsys)
