from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.conversation import read_conversations, write_conversations
from steerlm.studies.rate.store import annotators, open_study
from tests.studies.rate.studies import SCHEMA, comparison, two_turns, vote, write_answers


def test_a_study_of_ratings_from_new_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, schema, folder = tmp_path / "chats.jsonl", tmp_path / "schema.yaml", str(tmp_path / "study")
    write_conversations(data, [two_turns(f"c{i}") for i in range(9)], SCHEMA)
    schema.write_text(json.dumps(SCHEMA.to_dict()))
    new = ["rate", "new", folder, "--data", str(data), "--attributes", str(schema)]
    assert main([*new, "--turns", "all", "--num-prompts", "4", "--question", "How good?"]) == 0
    assert "8 items in" in capsys.readouterr().out
    study = open_study(tmp_path / "study")
    assert (study.question, study.schema, study.num_items) == ("How good?", SCHEMA, 8)
    for item in range(8):
        for name in ("ana", "ben"):
            vote(study, name, item, {"humor": str(item % 3), "helpfulness": "4", "lang": "de", "": ""})
    assert main(["rate", "results", folder]) == 0
    assert "Krippendorff" in capsys.readouterr().out
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert results["attributes"]["humor"]["krippendorff_alpha"]["value"] == 1.0
    assert results["attributes"]["humor"]["krippendorff_alpha"]["note"].startswith("no interval: 4 clusters")
    assert main(["rate", "export", folder]) == 0
    assert "48 ratings of 8 answers in 4 conversations" in capsys.readouterr().out.replace("\n", " ")
    exported = list(read_conversations(tmp_path / "study" / "ratings.jsonl", SCHEMA))
    assert [len(c.assistant_turns) for c in exported] == [2] * 4


def test_a_comparison_beside_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_answers(tmp_path / "a.jsonl", {f"p{i}": f"a {i}" for i in range(6)})
    b = write_answers(tmp_path / "b.jsonl", {f"p{i}": f"b {i}" if i else "a 0" for i in range(6)})
    folder = str(tmp_path / "study")
    assert main(["rate", "new", folder, "--answers", f"ours={a}", "--answers", f"theirs={b}"]) == 0
    printed = capsys.readouterr().out
    assert "5 items in" in printed
    assert "left out: 1 pairs of identical answers" in printed
    study = open_study(tmp_path / "study")
    for item in range(5):
        vote(study, "ana", item, {"": "first" if item else "second"})
    judge = tmp_path / "matches.jsonl"
    judge.write_text(
        "".join(f'{{"prompt": "p{i}", "first": "ours", "second": "theirs", "outcome": {i % 2}}}\n' for i in range(6))
    )
    assert main(["rate", "results", folder, "--judge", str(judge)]) == 0
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert results["systems"] == ["ours", "theirs"]
    assert results["left_out"] == {"pairs of identical answers": 1}
    assert results["judge"]["matches"] == results["people"]["matches"] == 5
    assert results["judge"]["agrees_with_people"]["value"] == pytest.approx(2 / 5)


def test_invitations_show_links_and_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = comparison(tmp_path)
    folder = str(study.folder)
    assert main(["rate", "invite", folder]) == 0
    assert "nobody is invited yet" in capsys.readouterr().out
    assert main(["rate", "invite", folder, "ana", "ben", "--url", "https://rate.example/x/"]) == 0
    vote(study, "ana", 0, {"": "tie"})
    capsys.readouterr()
    assert main(["rate", "invite", folder, "ana"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    token = annotators(study)[0].token
    assert line == f"ana  http://127.0.0.1:8321/#{token}  1 of 6 done"
    assert main(["rate", "invite", folder]) == 0
    assert len(re.findall("of 6 done", capsys.readouterr().out)) == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["new", "OUT"], "give either --answers NAME=FILE twice or more"),
        (["new", "OUT", "--answers", "a=x", "--data", "y"], "give either --answers"),
        (["new", "OUT", "--answers", "x.jsonl", "--answers", "b=x"], "not of the form NAME=FILE"),
        (["new", "OUT", "--answers", "a=x", "--answers", "a=y"], "a name of its own"),
        (["new", "OUT", "--answers", "a=x", "--answers", "b=y", "--attributes", "oasst"], "goes with --data"),
        (["new", "OUT", "--answers", "a=nowhere"], "two systems"),
        (["new", "OUT", "--data", "nowhere.jsonl"], "--attributes is missing"),
        (["new", "OUT", "--data", "nowhere.jsonl", "--attributes", "oasst"], "no such file"),
        (["new", "OUT", "--data", "x", "--questions", "q", "--attributes", "oasst"], "--questions goes with --answers"),
        (["serve", "OUT"], "no study in"),
        (["results", "OUT"], "no study in"),
        (["export", "OUT"], "no study in"),
    ],
)
def test_mistakes(argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rate", *(str(tmp_path / "out") if word == "OUT" else word for word in argv)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_taken_port_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = comparison(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["rate", "serve", str(study.folder), "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
    assert main(["rate", "serve", str(study.folder), "--port", "99999"]) == 2


def test_a_missing_extra_names_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = comparison(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert main(["rate", "serve", str(study.folder)]) == 2
    assert "pip install 'steerlm[rate]'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "krippendorff", None)
    for name in ("ana", "ben"):
        vote(study, name, 0, {"": "first"})
        vote(study, name, 1, {"": "tie"})
    assert main(["rate", "results", str(study.folder)]) == 2
    assert "pip install 'steerlm[rate]'" in capsys.readouterr().err
