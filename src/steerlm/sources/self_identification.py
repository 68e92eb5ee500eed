"""Model self-identification (M-SID): dialogues in which the assistant says who it is, in the ShareGPT layout.

The paper adds 910 such pairs so that the model answers questions about itself truthfully. The name of the assistant
and of its maker stand in the data: use a file made for your own model.
"""

from steerlm.sources.sharegpt import convert as convert
