"""jouleflow runs neural networks where energy is the scarce thing."""

__version__ = "0.1.0"
