"""What the copies in `tests.processes` have imported before they start: most of what any command imports."""

from __future__ import annotations

import contextlib
import gc

from transformers import (  # noqa: F401
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Trainer,
)

import steerlm.chat.session
import steerlm.generation.opening
import steerlm.pipeline
import steerlm.planning.estimate
import steerlm.playground.pretrain
import steerlm.playground.world
import steerlm.reporting.report
import steerlm.stages.annotate
import steerlm.stages.bootstrap.stage
import steerlm.stages.evaluate.stage
import steerlm.stages.prepare.stage
import steerlm.stages.train_attribute_model.stage
import steerlm.stages.train_sft
import tests.processes  # noqa: F401

with contextlib.suppress(ImportError):  # without the extra
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401
with contextlib.suppress(ImportError):
    import steerlm.server.run  # noqa: F401

gc.freeze()  # the copies share it, as long as no collector looks through it
