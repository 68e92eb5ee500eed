"""Attribute-conditioned preference training: pairs of annotated answers, each under both goals."""
