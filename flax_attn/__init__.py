"""Vision attention for JAX, with exact PyTorch weight parity. A name is imported when it is first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
