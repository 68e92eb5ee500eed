"""What the server says about its model, and scores in the shape of vLLM's `/classify`; nothing that is hidden."""

from __future__ import annotations

import time
from typing import Any

from steerlm.attributes import Attribute
from steerlm.server.answering import is_shown, scored_attributes, shown_scores
from steerlm.server.errors import ApiError
from steerlm.server.service import Scored, Service
from steerlm.server.steering import Dials, Wishes, offered_presets, parse_model, resolve

_COMMONEST = 20


def models_json(service: Service, dials: Dials) -> list[dict[str, object]]:
    """Return the model and, for clients that can only choose a model, its presets as models."""
    names = [service.name, *(f"{service.name}@preset={name}" for name in offered_presets(dials, service.trained))]
    return [_model(name, service) for name in names]


def model_json(name: str, service: Service, dials: Dials) -> dict[str, object]:
    """Return the model by a name that a request for an answer may give it: `model`, or `model@humor=4`.

    Raises:
        ApiError: another model, or a setting that the request would be refused for.
    """
    preset, values = parse_model(name, service.names, dials)
    resolve(Wishes([("model", values)], preset=preset), dials, service.trained)
    return _model(name, service)


def _model(name: str, service: Service) -> dict[str, object]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "steerlm"}


def attributes_json(service: Service, dials: Dials) -> dict[str, object]:
    """Return everything that a caller may know about the dials."""
    scored = scored_attributes(service, dials)
    visible = [attribute.name for attribute in dials.visible()]
    presets = [
        {
            "name": name,
            "description": preset.description,
            "attributes": {a: value for a, value in preset.attributes.items() if a in visible},
            "guidance": {a: value for a, value in preset.guidance.items() if a in visible},
        }
        for name, preset in offered_presets(dials, service.trained).items()
    ]
    counts: dict[tuple[tuple[str, Any], ...], int] = {}
    for combination in service.trained.combinations:
        key = tuple((a, combination["attributes"].get(a)) for a in visible)
        counts[key] = counts.get(key, 0) + combination["count"]
    commonest = sorted(counts.items(), key=lambda item: -item[1])[:_COMMONEST]
    return {
        "object": "list",
        "model": service.name,
        "data": [_attribute(attribute, dials, attribute.name in scored) for attribute in dials.visible()],
        "presets": presets,
        "guidance": (
            None if dials.cannot_mix else {"minimum": 0, "maximum": dials.policy.limits.max_guidance, "default": 1}
        ),
        "scores": bool(scored),
        "demonstrations": 0 if service.demonstrations is None else dials.policy.limits.max_demonstrations,
        "auto": service.proposer is not None,
        "combinations": {
            "total": len(counts),
            "commonest": [
                {"attributes": {a: v for a, v in key if v is not None}, "turns": turns} for key, turns in commonest
            ],
        },
    }


def _attribute(attribute: Attribute, dials: Dials, scored: bool) -> dict[str, object]:
    lock = dials.locks.get(attribute.name)
    default = attribute.default_value
    row: dict[str, object] = {
        "name": attribute.name,
        "kind": attribute.kind,
        "description": attribute.description,
        "default": default if lock is None else lock.nearest(attribute, default),
        "best": attribute.best,
        "low": attribute.low,
        "high": attribute.high,
        "locked": lock is not None and lock.fixed,
        "scored": scored,
        "strength": dials.strengths.get(attribute.name, 1.0),
    }
    if attribute.kind == "categorical":
        return {**row, "categories": list(attribute.categories)}
    lowest, highest = (attribute.minimum, attribute.maximum) if lock is None else (lock.lowest, lock.highest)
    row |= {"minimum": attribute.minimum, "maximum": attribute.maximum}
    return {**row, "lowest": lowest, "highest": highest}


def classification_json(service: Service, dials: Dials, scored: Scored, reply_id: str) -> dict[str, object]:
    """Return scores as vLLM's `/classify` does: `probs` are the model's outputs, on a scale of 0 to 1 per attribute.

    What vLLM has not: `labels`, the names of `probs`; `values` and `scores` on the attributes' own scales.

    Raises:
        ApiError: a conversation is longer than the attribute model's context.
    """
    model = service.attribute_model
    assert model is not None
    data = []
    for index, scores in enumerate(scored.scores):
        if scores is None:
            message = f"conversation {index} is longer than the attribute model's context"
            raise ApiError("context_length_exceeded", message, "messages")
        outputs: dict[str, float] = {}
        for attribute in model.schema:
            if not is_shown(attribute.name, dials) or attribute.name not in scores:
                continue
            score = scores[attribute.name]
            if attribute.kind == "ordinal":
                outputs[attribute.name] = attribute.to_unit(score.mean)
            else:
                outputs |= {f"{attribute.name}:{c}": p for c, p in (score.probabilities or {}).items()}
        values = {name: value for name, value in model.values(scores).items() if is_shown(name, dials)}
        data.append(
            {
                "index": index,
                "label": max(outputs, key=lambda name: outputs[name], default=None),
                "labels": list(outputs),
                "probs": list(outputs.values()),
                "num_classes": len(outputs),
                "values": values,
                "scores": shown_scores(scores, model.schema, dials),
            }
        )
    return {
        "id": reply_id,
        "object": "list",
        "created": int(time.time()),
        "model": service.name,
        "data": data,
        "usage": {
            "prompt_tokens": scored.num_tokens,
            "total_tokens": scored.num_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
