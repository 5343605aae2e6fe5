"""What an activation, a slope, a learning rate or a seed does to the training of an image MLP."""

__version__ = "0.1.0"
