"""What holds for every method, operator and reward, and code that finds out: `flowhelm check`, and the tests of the package."""
