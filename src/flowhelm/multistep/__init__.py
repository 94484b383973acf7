"""What multi-step solvers are made of: past predictions and their weights, the variables they are polynomials in, transforms of slopes."""
