"""Which tensor departs first: a failing case once more, tensor by tensor."""
