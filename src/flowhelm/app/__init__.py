"""What people type: the command line, thin over the library. `app.restore` is its Python side."""
