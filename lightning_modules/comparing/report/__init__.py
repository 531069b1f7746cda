"""Reports of comparisons: terminal, Markdown, HTML, Weights & Biases."""
