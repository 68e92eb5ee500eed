"""`steerlm serve`: load the models, check the policy, listen."""

from __future__ import annotations

import gc
import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import uvicorn

from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import load_config, load_tokenizer
from steerlm.errors import UserError
from steerlm.generation.demonstrations import read_demonstrations
from steerlm.generation.engine import steerable
from steerlm.generation.prompting import Prompting
from steerlm.generation.worker import process_worker
from steerlm.scorers.attribute_models import LoadedAttributeModel
from steerlm.scorers.labelling import SchemaLabels
from steerlm.server.app import create_app
from steerlm.server.backend import Backend
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.gate import Keys, load_keys
from steerlm.server.local import LocalBackend
from steerlm.server.metrics import Metrics
from steerlm.server.policy import Policy, load_policy
from steerlm.server.proposing import fit_proposer
from steerlm.server.service import Service, answer_scorer, trained_schema
from steerlm.server.upstream import Upstream, UpstreamBackend
from steerlm.server.vllm import load_vllm_backend
from steerlm.storage.files import read_yaml


def build_service(
    names: Sequence[str],
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: LoadedAttributeModel | SchemaLabels | None,
    make_backend: Callable[[Metrics], Backend],
    examples: Path | None = None,
) -> Service:
    """Put whatever draws answers behind a service.

    Args:
        names: the model's name in the API, and others that it is called by.
        policy: made for `trained_schema(info)`.
        attribute_model: for scores and best-of-n.
        make_backend: starts what draws, and has it count in the service's metrics.
        examples: annotated conversations, for demonstrations and `auto`.

    Raises:
        UserError: the model cannot be loaded.
    """
    metrics = Metrics()
    backend = make_backend(metrics)
    metrics.watch(lambda: backend.num_running, lambda: backend.num_waiting)
    schema = trained_schema(info)
    trained = TrainedCombinations(info.label_statistics, schema)
    shown = None if examples is None else read_demonstrations(examples, info.schema, trained=schema)
    proposer = None if shown is None else fit_proposer(shown)
    most = policy.limits.max_guidance
    strengths = {name: min(strength, most) for name, strength in info.strengths.items() if name in schema}
    started = int(time.time())
    return Service(
        tuple(names), backend, schema, trained, policy, attribute_model, started, metrics, shown, proposer, strengths
    )


def load_service(
    names: Sequence[str],
    model: Path,
    info: CheckpointInfo,
    policy: Policy,
    attribute_model: Path | None,
    batch_size: int,
    upstream: Upstream | None,
    engine: Literal["local", "vllm"],
    examples: Path | None = None,
) -> Service:
    """Load the models; see `serve`."""
    limits = policy.limits
    local = upstream is None and engine == "local"
    worker = process_worker(model, batch_size) if local else None  # loads while this process goes on
    scorer = answer_scorer(info.schema, attribute_model)

    def make_backend(metrics: Metrics) -> Backend:
        if upstream is None and worker is None:
            return load_vllm_backend(model, batch_size, limits.max_waiting, metrics)
        prompting = Prompting(load_tokenizer(model), info.schema, load_config(model))
        if upstream is not None:
            return UpstreamBackend(upstream, prompting, limits.max_waiting, limits.upstream_timeout_s, metrics)
        assert worker is not None
        return LocalBackend(prompting, worker, batch_size, limits.max_waiting, metrics)

    return build_service(names, info, policy, scorer, make_backend, examples)


def serve(
    model: Path,
    *,
    attribute_model: Path | None,
    policy: Path | None,
    api_key_file: Path | None,
    name: str | None,
    host: str,
    listener: socket.socket,
    batch_size: int,
    upstream: Upstream | None = None,
    engine: Literal["local", "vllm"] = "local",
    examples: Path | None = None,
) -> None:
    """Serve a model until interrupted.

    Args:
        host: the address as the operator gave it; other machines are let in only with keys.
        listener: listens there already.

    Raises:
        UserError: a model of the wrong kind, a policy that does not fit, or an open address without keys.
    """
    info = steerable(model)
    keys = load_keys(api_key_file)
    loopback = is_loopback(host)
    check_exposure(host, keys)
    checked = load_policy(policy, trained_schema(info), keys.names)
    names = (name,) if name else served_names(model)
    service = load_service(names, model, info, checked, attribute_model, batch_size, upstream, engine, examples)
    app = create_app(service, keys, loopback=loopback)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, server_header=False)
    # what has been loaded stays: a collector that looked through all of it would stop every answer for a quarter second
    gc.collect()
    gc.freeze()
    _Server(config, service.name).run(sockets=[listener])


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


def served_names(model: Path) -> tuple[str, ...]:
    """Return the names of a model: of its recipe where it lies in a run, and of its folder or stage."""
    path = model.resolve()
    stage = path.parent if path.name == "model" else path
    recipe = stage.parent / "recipe.yaml"
    raw = read_yaml(recipe) if path.name == "model" and recipe.is_file() else None
    name = raw.get("name") if isinstance(raw, dict) else None
    found = [str(each).replace("@", "-") for each in (name, stage.name) if each]
    return tuple(dict.fromkeys(found)) or ("model",)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, keys: Keys) -> None:
    """Refuse to serve others without keys."""
    if not is_loopback(host) and not keys.names:
        raise UserError(
            f"--host {host} lets other machines in: give --api-key-file, or listen on 127.0.0.1 (the default)"
        )
