"""The kinds of layers that a campaign can fill, a file each; ``find`` looks for them in a model."""
