"""Pruning: pure tensor functions (hessian, selection, solver), who does what on which rank, and block by block."""
