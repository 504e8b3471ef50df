"""Primitives for measuring lazy training in differentiable programming."""

__version__ = "0.1.0"
