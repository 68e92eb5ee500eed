"""`steerlm serve`: load the models, check the policy, listen."""

from __future__ import annotations

import gc
import ipaddress
import socket
import time
from pathlib import Path
from typing import Literal

import uvicorn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import load_tokenizer
from steerlm.errors import UserError
from steerlm.generation.engine import LocalEngine, steerable
from steerlm.generation.prompting import Prompting
from steerlm.generation.worker import Worker, process_worker, thread_worker
from steerlm.scorers.attribute_models import LoadedAttributeModel, load_attribute_model
from steerlm.server.app import create_app
from steerlm.server.backend import Backend
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.keys import Keys, load_keys
from steerlm.server.local import LocalBackend
from steerlm.server.metrics import Metrics
from steerlm.server.policy import Policy, load_policy
from steerlm.server.service import Service, trained_schema
from steerlm.server.upstream import Upstream, UpstreamBackend
from steerlm.server.vllm import load_vllm_backend


def build_service(
    name: str, engine: LocalEngine, info: CheckpointInfo, policy: Policy, attribute_model: LoadedAttributeModel | None
) -> Service:
    """Put models that are in memory behind a service; the model's thread takes turns with those of the clients.

    Args:
        name: the model's name in the API.
        engine: the steerable model.
        info: of its checkpoint.
        policy: made for `trained_schema(info)`.
        attribute_model: for scores and best-of-n.
    """
    worker = thread_worker(engine.decoder())
    return build_local_service(name, engine.prompting, worker, engine.batch_size, info, policy, attribute_model)


def build_upstream_service(
    name: str,
    upstream: Upstream,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: LoadedAttributeModel | None,
) -> Service:
    """Put another server behind a service.

    Args:
        name: the model's name in the API.
        upstream: where it is.
        tokenizer: of the checkpoint.
        context: most tokens of a prompt and its answer.
        info: of the checkpoint.
        policy: made for `trained_schema(info)`.
        attribute_model: for scores and best-of-n.

    Raises:
        UserError: a checkpoint of an attribute model, or a tokenizer without our template.
    """
    if info.kind != "sft":
        raise UserError(f"a {info.kind} attribute model cannot answer; give a model that train-sft or bootstrap wrote")
    metrics = Metrics()
    limits = policy.limits
    backend = UpstreamBackend(
        upstream, tokenizer, info.schema, context, limits.max_waiting, limits.upstream_timeout_s, metrics
    )
    return service_of(name, backend, metrics, info, policy, attribute_model)


def build_local_service(
    name: str,
    prompting: Prompting,
    worker: Worker,
    batch_size: int,
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: LoadedAttributeModel | None,
) -> Service:
    """Put a worker behind a service, once it is ready.

    Args:
        name: the model's name in the API.
        prompting: of the model.
        worker: decodes with the model.
        batch_size: most samples decoded together.
        info: of the checkpoint.
        policy: made for `trained_schema(info)`.
        attribute_model: for scores and best-of-n.

    Raises:
        UserError: the model cannot be loaded.
    """
    metrics = Metrics()
    backend = LocalBackend(prompting, worker, batch_size, policy.limits.max_waiting, metrics)
    return service_of(name, backend, metrics, info, policy, attribute_model)


def build_vllm_service(
    name: str,
    model: Path,
    batch_size: int,
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: LoadedAttributeModel | None,
) -> Service:
    """Start vLLM on a checkpoint and put it behind a service.

    Args:
        name: the model's name in the API.
        model: folder of a steerable model.
        batch_size: most samples decoded together.
        info: of the checkpoint.
        policy: made for `trained_schema(info)`.
        attribute_model: for scores and best-of-n.

    Raises:
        UserError: see `load_vllm_backend`.
    """
    metrics = Metrics()
    backend = load_vllm_backend(model, batch_size, policy.limits.max_waiting, metrics)
    return service_of(name, backend, metrics, info, policy, attribute_model)


def context_of(model: Path) -> int | None:
    """Return the most tokens that a checkpoint's configuration allows; None = it sets no limit."""
    text = config_of(model).get_text_config()
    context: int | None = getattr(text, "max_position_embeddings", None)  # some models have no limit
    return context


def config_of(model: Path) -> PreTrainedConfig:
    """Return the configuration of a checkpoint."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(model, trust_remote_code=False)
    return config


def service_of(
    name: str,
    backend: Backend,
    metrics: Metrics,
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: LoadedAttributeModel | None,
) -> Service:
    """Put whatever draws answers behind a service; see `build_service`."""
    metrics.watch(lambda: backend.num_running, lambda: backend.num_waiting)
    schema = trained_schema(info)
    trained = TrainedCombinations(info.label_statistics, schema)
    return Service(name, backend, schema, trained, policy, attribute_model, int(time.time()), metrics)


def serve(
    model: Path,
    *,
    attribute_model: Path | None,
    policy: Path | None,
    api_key_file: Path | None,
    name: str | None,
    host: str,
    port: int,
    batch_size: int,
    upstream: Upstream | None = None,
    engine: Literal["local", "vllm"] = "local",
) -> None:
    """Serve a model until interrupted.

    Args:
        model: folder of a steerable model.
        attribute_model: folder of an attribute model.
        policy: policy file.
        api_key_file: names and keys.
        name: the model's name in the API; None = that of its folder.
        host: address to listen on.
        port: port; 0 = any free one.
        batch_size: most samples decoded together.
        upstream: another server that draws the answers; then no weights are loaded.
        engine: what draws them here.

    Raises:
        UserError: a model of the wrong kind, a policy that does not fit, or an open address without keys.
    """
    info = steerable(model)
    keys = load_keys(api_key_file)
    loopback = is_loopback(host)
    check_exposure(host, keys)
    checked = load_policy(policy, trained_schema(info), keys.names)
    called = name or served_name(model)
    local = upstream is None and engine == "local"
    worker = process_worker(model, batch_size) if local else None  # loads while this process goes on
    scorer = None if attribute_model is None else load_attribute_model(attribute_model)
    if worker is not None:
        prompting = Prompting(load_tokenizer(model), info.schema, config_of(model))
        service = build_local_service(called, prompting, worker, batch_size, info, checked, scorer)
    elif upstream is not None:
        context = context_of(model)
        service = build_upstream_service(called, upstream, load_tokenizer(model), context, info, checked, scorer)
    else:
        service = build_vllm_service(called, model, batch_size, info, checked, scorer)
    app = create_app(service, keys, loopback=loopback)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5, server_header=False
    )
    # what has been loaded stays: a collector that looked through all of it would stop every answer for a quarter second
    gc.collect()
    gc.freeze()
    _Server(config, service.name).run()


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, name: str) -> None:
        super().__init__(config)
        self._name = name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            url = f"http://{address}:{port}"
            print(f"{self._name} at {url}/v1  its page at {url}/  (Ctrl-C ends it)", flush=True)


def served_name(model: Path) -> str:
    """Return a name for a model: of its folder, or of the stage above a folder called `model`."""
    path = model.resolve()
    name = path.parent.name if path.name == "model" else path.name
    return name.replace("@", "-") or "model"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, keys: Keys) -> None:
    """Refuse to serve others without keys.

    Raises:
        UserError: other machines can reach the address, and no key is needed.
    """
    if not is_loopback(host) and not keys.names:
        raise UserError(
            f"--host {host} lets other machines in: give --api-key-file, or listen on 127.0.0.1 (the default)"
        )
