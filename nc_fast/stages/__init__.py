"""The three stages, moments, score and selection, and the campaign that composes them."""
