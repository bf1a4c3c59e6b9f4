"""DigitsNet on scikit-learn's digits: the checkpoint that travels with the package."""
