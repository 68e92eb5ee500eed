"""Attributes and their schema: names, order, ranges, kinds and text form (SteerLM, section 3).

This is the only place that knows an attribute's scale. A schema is stored in every checkpoint (in full) and in every
record of a data file (as its signature), so that a mismatch is an error and never a silent reinterpretation.
"""

from steerlm.attributes.attribute import Attribute as Attribute
from steerlm.attributes.attribute import ClassifierLabel as ClassifierLabel
from steerlm.attributes.attribute import JudgeShare as JudgeShare
from steerlm.attributes.attribute import Teller as Teller
from steerlm.attributes.attribute import Value as Value
from steerlm.attributes.schema import HELPSTEER as HELPSTEER
from steerlm.attributes.schema import OASST as OASST
from steerlm.attributes.schema import PAPER as PAPER
from steerlm.attributes.schema import PRESETS as PRESETS
from steerlm.attributes.schema import STEERLM as STEERLM
from steerlm.attributes.schema import AttributeSchema as AttributeSchema
from steerlm.attributes.schema import is_signature as is_signature
from steerlm.attributes.schema import output_names as output_names
from steerlm.attributes.schema import output_slices as output_slices
