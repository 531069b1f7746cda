"""Networks for classification and regression."""
