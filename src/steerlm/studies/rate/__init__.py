"""Human rating on a local web page: blind comparisons and attribute ratings (SteerLM, sections 3.1 and 4.4)."""
