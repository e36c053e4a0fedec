"""What is measured: rankings, metrics and diagnostics, and how sure one may be of them."""
