"""Methods on gradients and scores of prefixes, which gained nothing over their controls so far.

Each module adds itself to a registry of the core: `methods` to the methods, `handlers` to the
requests that the engine answers, `controls` to those of the analysis. Nothing in the core imports
them by name: without this folder the package is whole, and older traces are still read.
"""
