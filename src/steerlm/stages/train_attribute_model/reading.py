"""What of the base model the head of an attribute model reads, and reading it of all training turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.checkpoint.models import default_device, is_encoder
from steerlm.config import TrainAttributeModelConfig
from steerlm.errors import UserError
from steerlm.scorers.features import Readout
from steerlm.scorers.reading import read_features
from steerlm.stages.train_attribute_model.examples import AttributeData
from steerlm.storage.files import atomic_writer
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.distributed import ranks

FEATURES = "features"
"""Folder of what was read of the training turns, until the report is written."""
_BLOCK = 2048
"""Turns that are read together."""


def readout_of(config: TrainAttributeModelConfig) -> Readout | None:
    """Return what a head in closed form reads of the base model; None where there is no such head."""
    if config.fits_head:
        return Readout.of(config.base_model, causal=not is_encoder(config.base_model))
    if config.head_only:
        raise UserError(
            "train_attribute_model.head_only needs kind: regression and readout: auto, without lora, fsdp and deepspeed"
        )
    return None


def tunes(config: TrainAttributeModelConfig) -> bool:
    """Return whether the base model is fine-tuned once the head is fitted."""
    return not is_encoder(config.base_model) if config.head_only is None else not config.head_only


@dataclass(frozen=True)
class TurnFeatures:
    """Reads the features of the training turns."""

    config: TrainAttributeModelConfig
    tokenizer: PreTrainedTokenizerBase
    encoder: ConversationEncoder
    readout: Readout
    learned: AttributeData
    folder: Path

    def of(self, model: PreTrainedModel, name: str) -> npt.NDArray[np.float32]:
        """Return them (N, F); an interrupted stage goes on after what it has read."""
        count = len(self.learned.labels_N_K)
        return np.concatenate([self._block(model, name, start) for start in range(0, count, _BLOCK)])

    def _block(self, model: PreTrainedModel, name: str, start: int) -> npt.NDArray[np.float32]:
        path = self.folder / f"{name}-{start}.npy"
        if not path.is_file():
            stop = min(start + _BLOCK, len(self.learned.labels_N_K))
            found_N_F = read_features(
                model.to(default_device()),
                self.readout,
                int(self.tokenizer.pad_token_id),
                self.encoder.control_ids,
                [self.learned.examples.example(i, 0).input_ids for i in range(start, stop)],
                self.config.precision,
                self.config.tokens_per_batch,
            )
            if not ranks().is_main_process:
                return found_N_F
            self.folder.mkdir(exist_ok=True)
            with atomic_writer(path) as stream:
                np.save(stream, found_N_F)
        features_N_F: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
        return features_N_F
