"""The recipe: typed, strict, YAML in, resolved copy out. One section per stage; import all of them from here."""

from steerlm.config.evaluate import ClassifierConfig as ClassifierConfig
from steerlm.config.evaluate import EvaluateConfig as EvaluateConfig
from steerlm.config.evaluate import JudgeScorerConfig as JudgeScorerConfig
from steerlm.config.loading import apply_overrides as apply_overrides
from steerlm.config.loading import build_recipe as build_recipe
from steerlm.config.loading import dump_recipe as dump_recipe
from steerlm.config.loading import load_recipe as load_recipe
from steerlm.config.loading import parse_overrides as parse_overrides
from steerlm.config.loading import validate as validate
from steerlm.config.recipe import AnnotateConfig as AnnotateConfig
from steerlm.config.recipe import BaselinesConfig as BaselinesConfig
from steerlm.config.recipe import BootstrapConfig as BootstrapConfig
from steerlm.config.recipe import HeaderMarks as HeaderMarks
from steerlm.config.recipe import LoraSection as LoraSection
from steerlm.config.recipe import PlaygroundConfig as PlaygroundConfig
from steerlm.config.recipe import PrepareConfig as PrepareConfig
from steerlm.config.recipe import Recipe as Recipe
from steerlm.config.recipe import SourceConfig as SourceConfig
from steerlm.config.recipe import SourceFormat as SourceFormat
from steerlm.config.recipe import TemplateChoice as TemplateChoice
from steerlm.config.recipe import TemplateName as TemplateName
from steerlm.config.recipe import TrainAttributeModelConfig as TrainAttributeModelConfig
from steerlm.config.recipe import TrainingSection as TrainingSection
from steerlm.config.recipe import TrainSftConfig as TrainSftConfig
from steerlm.config.recipe import scoring_tokens as scoring_tokens
from steerlm.config.section import Section as Section
