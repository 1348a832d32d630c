"""fasim: what does this attention schedule cost on that GPU, and why?"""

__version__ = "0.1.0"
